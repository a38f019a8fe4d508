"""Diagnostics: learning-rate range test, layer statistics, profiler, anomaly detection, overfitting one batch."""
