"""Import runs of other programs from their logs (TensorBoard, CSV, Hugging Face), with the metric names of labbook."""
