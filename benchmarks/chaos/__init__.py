"""Kill processes, tear files and fill the disk under sweeps, and look what is lost."""
