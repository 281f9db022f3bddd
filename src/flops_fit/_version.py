"""The version, read by the build and by ``flops_fit.__version__``."""

__version__ = "0.1.0"
