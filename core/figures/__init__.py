"""Numbers and pictures in Markdown files that are generated from runs on record."""
