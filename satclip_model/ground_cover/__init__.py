"""Images and ground-cover classes in one embedding space."""
