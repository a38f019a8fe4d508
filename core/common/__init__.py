"""What every room may use and what knows nothing of experiments: errors, text, files, statistics, plots, HTML."""
