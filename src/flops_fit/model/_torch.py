"""torch at first use, with a sentence where it is not installed."""

from __future__ import annotations

from typing import Any

from flops_fit.errors import MissingExtraError

__all__ = ["torch_or_error"]


def torch_or_error() -> Any:
    """The module torch."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "train", "planning and training models") from None
    return torch
