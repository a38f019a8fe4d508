"""Train, resume and repeat runs, one or several seeds, and write their records."""
