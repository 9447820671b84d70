"""Fixed bases on the sphere: one file per family."""
