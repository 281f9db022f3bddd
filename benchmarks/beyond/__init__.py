"""Questions beyond N and D: what the laws on top say of public runs that they were not fitted to."""
