"""What is on disk of a run: journal, record, lock, provenance. Nothing here imports torch."""
