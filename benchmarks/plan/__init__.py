"""Exact cost, predicted times, and FLOPs to an answer by design."""
