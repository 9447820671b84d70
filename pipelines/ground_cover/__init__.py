"""Which ground cover a patch shows: classes, labels from land-cover maps and tables."""
