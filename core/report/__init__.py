"""A run looked into, as one page: what it asked, how it went, what it gets wrong, whether its data can be trusted."""
