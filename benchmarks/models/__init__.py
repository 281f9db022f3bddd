"""Kinds of models, data and losses as people have them: planned, trained, and judged."""
