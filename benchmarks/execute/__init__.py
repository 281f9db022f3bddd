"""Runs side by side, overhead of a run, size of the store."""
