"""torch, imported where it is first used: that takes seconds, and fits of tables do without it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flops_fit.errors import MissingExtraError


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """A module of an optional package; MissingExtraError where that is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise MissingExtraError(module.partition(".")[0], extra, purpose) from None


if TYPE_CHECKING:
    import torch
    from torch import nn
else:

    class _Lazy:
        """A module that is imported when an attribute of it is asked for."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            module = import_extra(self._name, "train", "planning and training models")
            return getattr(module, attribute)

    torch, nn = _Lazy("torch"), _Lazy("torch.nn")

__all__ = ["import_extra", "nn", "torch"]
