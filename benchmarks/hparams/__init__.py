"""Learning rates over widths, and sweeps tuned and untuned."""
