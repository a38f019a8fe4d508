"""Numbers and pictures in Markdown that come from the record, and whether they still hold."""
