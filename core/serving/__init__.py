"""Use a run's network outside labbook: export, register, serve."""
