"""What computes: the loop, a step, evaluation, state, checkpoints, processes."""
