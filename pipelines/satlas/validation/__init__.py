"""Precision and recall of products, per continent and with intervals."""
