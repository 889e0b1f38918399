"""LightningModules, optimization, checkpoints, callbacks, and the command line's fit, validate, test and predict."""
