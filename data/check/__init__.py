"""labbook check: inspect your own images before training on them. Nothing is changed."""
