"""The report page of a run: declaration, learning curves, errors, calibration, near-duplicates, cost."""
