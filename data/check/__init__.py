"""labbook check: a look at images of one's own before a run takes them. Nothing is changed."""
