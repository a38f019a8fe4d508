"""Inference: the network of a run, rebuilt from its record, with its precision and test-time augmentation."""
