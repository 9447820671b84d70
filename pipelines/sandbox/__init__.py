"""A synthetic planet, rendered on request, with a STAC API in front of it: the embedded default input."""
