"""Runs on disk: journal, record, lock and provenance. Nothing here imports torch."""
