"""The queue of `labbook queue`: command lines that wait in the home folder until a runner, or Slurm, trains them."""
