"""labbook pack: images of any source, checked, reduced and divided, in a packed set that training reads as it lies."""
