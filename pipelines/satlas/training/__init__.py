"""Training of Satlas models: examples, crops, the loop, and how good it is."""
