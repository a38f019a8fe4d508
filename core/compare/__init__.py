"""Comparing runs on record: seeds folded together, differences with intervals, what is shown and what is not."""
