"""Published runs and published laws, each with its source: what a fit is compared with."""

from flops_fit.reference.published import (
    LAW_NAMES,
    RUN_NAMES,
    columns,
    law,
    law_source,
    runs,
    source,
)

__all__ = ["LAW_NAMES", "RUN_NAMES", "columns", "law", "law_source", "runs", "source"]
