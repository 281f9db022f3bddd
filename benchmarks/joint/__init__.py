"""Learning rate and batch as part of the surface."""
