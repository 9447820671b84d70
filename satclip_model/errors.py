"""Errors of the model package."""


class CheckpointError(Exception):
    """A checkpoint that cannot be read, or whose tensors do not fit its configuration."""


class DivergenceError(Exception):
    """A loss that is not finite, so that going on would only destroy the weights."""
