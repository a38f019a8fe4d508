"""Import runs of other programs, from logs, from stores of MLflow, and from exports of W&B and Neptune, with the names
of labbook for metrics and settings."""
