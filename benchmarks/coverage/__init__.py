"""How often intervals hold."""
