"""Training of the two towers on image features, and its measures."""
