"""Declarations: the base of everything declared, how it is changed, written and read back."""
