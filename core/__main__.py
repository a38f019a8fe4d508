"""`python -m core VERB` is `labbook VERB`."""

from core.cli.main import labbook

if __name__ == "__main__":
    labbook()
