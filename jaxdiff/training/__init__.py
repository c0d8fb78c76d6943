"""Training: state, step, parallelism, checkpoints, metrics and the loop."""
