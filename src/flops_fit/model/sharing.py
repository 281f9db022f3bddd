"""Built models that own what they train: parts that the user's code holds on to are copied.

A factory may put one module or tensor, such as a pretrained encoder, into every model. Training would change
it for the next run, and tracing would take its values away.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from flops_fit.errors import ModelError
from flops_fit.flops.trace import storage
from flops_fit.lazy import nn, torch


@dataclass
class Held:
    """Modules and memory of models that were built before: what of it is alive, the user's code holds.

    ``noted`` are the sizes of these models. Weak references keep nothing alive, and an address is not given
    anew while one points to it.
    """

    noted: set[str] = field(default_factory=set)
    _storages: dict[int, Any] = field(default_factory=dict)
    _modules: WeakValueDictionary[int, Any] = field(default_factory=WeakValueDictionary)

    def __reduce__(self) -> tuple[Any, ...]:
        """Without references, which mean nothing in another process."""
        return Held, ()

    def note(self, key: str, model: Any) -> None:
        """Remember a model of a size, which is not used any further."""
        from torch.multiprocessing.reductions import StorageWeakRef

        self.noted.add(key)
        self._storages = {k: ref for k, ref in self._storages.items() if not ref.expired()}
        if not isinstance(model, nn.Module):
            return
        self._modules.update({id(module): module for module in model.modules()})
        for tensor in _tensors(model):
            if (place := _place(tensor)) is not None and place not in self._storages:
                found = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
                self._storages[place] = found

    def released(self, model: Any, name: str) -> Any:
        """The model with copies of all that the user's code holds; ties between its parts stay.

        Of a model on the meta device they have no values either.
        """
        if not isinstance(model, nn.Module):
            return model
        tensors = list(_tensors(model))
        on_meta = any(t.is_meta for t in tensors)
        shared = {id(m) for m in model.modules() if self._modules.get(id(m)) is m and _has_state(m)}
        views: dict[Any, Any] = {}
        copies = {id(t): _copied(t, on_meta, views) for t in tensors if self._holds(t)}
        if not shared and not copies:
            return model
        try:
            if id(model) in shared:
                return copy.deepcopy(model, copies)
            _replace(model, shared, copies)
        except Exception as error:  # the user's module may hold anything
            raise ModelError(
                f"model_cls: {name} puts a module of yours into every model that it builds. Each run trains "
                f"a copy of it, which {type(error).__name__} prevents: {error}. Build it in the constructor."
            ) from error
        return model

    def _holds(self, tensor: Any) -> bool:
        ref = self._storages.get(_place(tensor) or 0)
        return ref is not None and not ref.expired()


def _tensors(model: nn.Module) -> Iterator[Any]:
    yield from model.parameters()
    yield from model.buffers()


def _has_state(module: nn.Module) -> bool:
    return next(_tensors(module), None) is not None


def _place(tensor: Any) -> int | None:
    """Where the memory of a tensor is; ``None`` for one without memory, or of a kind that does not say."""
    with suppress(Exception):
        return None if tensor.is_meta else storage(tensor)
    return None


def _copied(tensor: Any, on_meta: bool, views: dict[Any, Any]) -> Any:
    """A tensor with memory of its own, which it shares with the copy of an equal view alone."""
    view = _place(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
    if view not in views:
        views[view] = tensor.detach().to("meta") if on_meta else tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        own: Any = torch.nn.Parameter(views[view], tensor.requires_grad)
    else:
        own = views[view].detach().requires_grad_(tensor.requires_grad)
    vars(own).update(vars(tensor))
    return own


def _replace(module: nn.Module, shared: set[int], copies: dict[int, Any]) -> None:
    """Put copies in the place of shared modules and tensors, once each."""
    for owned in (module._parameters, module._buffers):
        for name, tensor in list(owned.items()):
            if id(tensor) in copies:
                setattr(module, name, copies[id(tensor)])
    for name, child in list(module._modules.items()):
        if id(child) in shared:
            setattr(module, name, copy.deepcopy(child, copies))
        elif child is not None:
            _replace(child, shared, copies)
