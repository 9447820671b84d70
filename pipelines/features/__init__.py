"""Frozen image features, computed once per patch."""
