class SlurmExecutor: pass
