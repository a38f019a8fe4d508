"""Metrics of classification, and what their names say about them."""
