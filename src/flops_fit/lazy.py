"""torch, imported where it is first used: that takes seconds, and fits of tables do without it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flops_fit.errors import MissingExtraError

if TYPE_CHECKING:
    import torch
    from torch import nn
else:

    class _Lazy:
        """A module that is imported when an attribute of it is asked for."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            try:
                return getattr(import_module(self._name), attribute)
            except ImportError:
                raise MissingExtraError("torch", "train", "planning and training models") from None

    torch, nn = _Lazy("torch"), _Lazy("torch.nn")

__all__ = ["nn", "torch"]
