"""Objects planted on the synthetic planet, and what stands beside them to be mistaken for them."""
