"""Import runs of other programs, logged as TensorBoard events or CSV, with the metric names of labbook."""
