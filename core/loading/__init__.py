"""Loading: images on disk, batches on the device."""
