"""What all benchmarks share: goals and tables, the command line, timing, other packages."""
