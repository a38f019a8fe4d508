"""Old runs taken into the record: TensorBoard's event folders and CSV logs, with the names that labbook's own have."""
