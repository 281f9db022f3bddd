"""How often the intervals held on public sweeps, and what trust was worth there."""
