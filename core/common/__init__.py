"""Utilities that do not depend on experiments: errors, text, files, statistics, plots, HTML."""
