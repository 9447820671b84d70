"""Satlas: windows, predictions, monthly products and their validation."""
