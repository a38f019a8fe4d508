"""A run outside of labbook: its network as a file for an engine, with proof, and in the model registry of MLflow."""
