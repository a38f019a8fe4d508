"""A trained network asked: rebuilt from its run's record, made ready for a device, with its views and precision."""
