"""SatCLIP in PyTorch: positional encodings, towers, losses and checkpoints."""
