"""Embeddings of places: global grids, tables of points, and the files that carry them."""
