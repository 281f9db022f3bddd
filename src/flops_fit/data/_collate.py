"""Samples of any nesting into one batch of the same nesting."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["collate"]


def collate(samples: list[Any]) -> Any:
    """``torch.utils.data.default_collate``, for dataclasses too: a batch of each field."""
    from torch.utils.data import default_collate

    if not _holds_dataclass(samples[0]):
        return default_collate(samples)
    return _collate(samples)


def _collate(samples: list[Any]) -> Any:
    from torch.utils.data import default_collate

    first = samples[0]
    if _is_dataclass(first):
        # Not by its constructor, which may check or convert what a single sample holds.
        batch = copy.copy(first)
        for field in dataclasses.fields(first):
            values = [getattr(s, field.name) for s in samples]
            object.__setattr__(batch, field.name, _collate(values))
        return batch
    if not _holds_dataclass(first):
        return default_collate(samples)
    if isinstance(first, Mapping):
        return {k: _collate([s[k] for s in samples]) for k in first}
    parts = [_collate(list(values)) for values in zip(*samples, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def _holds_dataclass(sample: Any) -> bool:
    if _is_dataclass(sample):
        return True
    if isinstance(sample, Mapping):
        return any(_holds_dataclass(v) for v in sample.values())
    return isinstance(sample, list | tuple) and any(_holds_dataclass(v) for v in sample)


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type | Mapping)
