"""The command line: `labbook VERB` is core/cli/VERB.py."""
