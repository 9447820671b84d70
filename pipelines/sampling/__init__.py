"""Where to look, which scene to take, and the plan that says so."""
