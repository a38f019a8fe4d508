"""What tests share. See README.md in this folder."""
