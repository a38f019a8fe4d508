"""What runs: training, resuming, seeds, rerun, and what a run leaves on record."""
