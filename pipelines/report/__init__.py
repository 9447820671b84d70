"""What a person reads: the report of a training run, and its pictures."""
