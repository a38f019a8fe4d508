"""Looking closer: learning-rate range test, layers, profiles, anomalies, one batch."""
