"""What a checkpoint may hold."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from flops_fit.errors import InputTypeError

_LEAVES = (type(None), bool, int, float, complex, str, bytes)
_INT_BITS = 2000  # PyTorch's restricted unpickler reads integers of up to 255 bytes


def plain_state(value: Any, name: str = "state") -> Any:
    """The same nested values, made only of what PyTorch loads with ``weights_only=True``.

    Containers are copied. Tensors are detached and share their storage with ``value``, except
    a view of a larger storage: it is copied, as a file would hold that storage whole.

    Parameters
    ----------
    value
        Dicts with text or integers as keys, lists and tuples of tensors, numbers, text, bytes,
        truth values and None.
    name
        How messages call ``value``.

    Raises
    ------
    InputTypeError
        Something else is in it; the message says where.

    Examples
    --------
    >>> plain_state({"step": 3, "betas": (0.9, 0.95)})
    {'step': 3, 'betas': (0.9, 0.95)}
    """
    try:
        return _plain(value, name)
    except RecursionError:
        raise InputTypeError(
            f"{name}: expected nested dicts and lists of finite depth; a container holds itself "
            "or is nested too deeply. Take the loop out before saving."
        ) from None


def _plain(value: Any, name: str) -> Any:
    # Types are compared exactly: a subclass (a NumPy float, an enum) is pickled as a class of
    # its own, which a restricted unpickler refuses.
    kind = type(value)
    if kind in _LEAVES:
        if kind is int and value.bit_length() > _INT_BITS:
            raise InputTypeError(
                f"{name}: expected an integer of at most {_INT_BITS} bits, got one of "
                f"{value.bit_length()}. Save it as text."
            )
        return value
    if kind in (list, tuple):
        return kind(_plain(item, f"{name}[{i}]") for i, item in enumerate(value))
    if kind in (dict, OrderedDict):
        return _plain_dict(value, name)
    return _plain_tensor(value, name)


def _plain_dict(value: dict[Any, Any], name: str) -> dict[Any, Any]:
    for key in value:
        if type(key) not in (str, int):
            raise InputTypeError(
                f"{name}: expected text or integers as keys, got {key!r} "
                f"({_type_name(key)}). Save it under another key."
            )
    copy = type(value)((k, _plain(v, f"{name}[{k!r}]")) for k, v in value.items())
    # Modules upgrade old states by the versions that state_dict() notes beside the tensors.
    if isinstance(copy, OrderedDict) and hasattr(value, "_metadata"):
        copy._metadata = _plain(value._metadata, f"{name}._metadata")  # type: ignore[attr-defined]
    return copy


def _plain_tensor(value: Any, name: str) -> Any:
    import torch

    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise InputTypeError(
            f"{name}: expected a tensor, number, text, bytes, None, or a dict, list or tuple of "
            f"them, got {_type_name(value)}, which cannot be loaded without running code from "
            "the file. Save its values as plain numbers, lists or tensors."
        )
    if value.layout != torch.strided or value.is_meta:
        what = "a meta tensor without values" if value.is_meta else f"layout {value.layout}"
        raise InputTypeError(f"{name}: expected a dense tensor, got {what}. Save a dense one.")
    tensor = value.detach()
    if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
        return tensor.clone()
    return tensor


def _type_name(value: Any) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
