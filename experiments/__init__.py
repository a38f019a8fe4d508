"""Declared experiments, one folder each. An experiment never imports another; what two share stands in recipes.py."""
