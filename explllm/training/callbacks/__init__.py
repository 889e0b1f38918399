"""Callbacks: live accuracy, checkpoints to resume from, and the run folder."""
