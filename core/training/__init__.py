"""Training: the loop, optimizer step, evaluation, state, checkpoints and distributed processes."""
