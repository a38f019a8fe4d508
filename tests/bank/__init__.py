"""A bank of finished runs, on which the rules that choose seeds, trials and epochs are replayed; see README.md."""
