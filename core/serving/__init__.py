"""A run's network outside labbook: exported, registered, served."""
