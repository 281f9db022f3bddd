"""Published runs and published laws, each with its source: what a fit is compared with."""

from flops_fit.reference.published_laws import LAW_NAMES, law, law_source
from flops_fit.reference.published_runs import RUN_NAMES, columns, runs, source

__all__ = ["LAW_NAMES", "RUN_NAMES", "columns", "law", "law_source", "runs", "source"]
