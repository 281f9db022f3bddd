"""What a checkpoint may hold, and the state of every random generator in that form."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from flops_fit.errors import InputError, InputTypeError

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


def capture_rng() -> dict[str, Any]:
    """The state of every global random generator, as plain values for a checkpoint.

    PyTorch on the CPU and, where CUDA or XPU is in use, on each of its devices, and on MPS where
    there is one; Python's ``random``; NumPy's global generator. :func:`restore_rng` brings them
    back exactly.

    Returns
    -------
    dict
        ``torch`` (a byte tensor), ``cuda``, ``xpu`` and ``mps`` (lists of them, by device),
        ``python`` (nested lists), ``numpy`` (a dict of numbers and lists).

    Examples
    --------
    >>> import random
    >>> state = capture_rng()
    >>> first = random.random()
    >>> restore_rng(state)
    >>> random.random() == first
    True
    """
    import torch

    # A process that never used CUDA or XPU drew nothing there, and asking would start it.
    cuda: list[Any] = []
    xpu: list[Any] = []
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all()
    if torch.xpu.is_initialized():  # type: ignore[no-untyped-call]
        xpu = torch.xpu.get_rng_state_all()
    mps = [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [state.cpu() for state in cuda],
        "xpu": [state.cpu() for state in xpu],
        "mps": [state.cpu() for state in mps],
        "python": [version, list(words), gauss],
        "numpy": _lists(np.random.get_state(legacy=False)),  # noqa: NPY002
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put every global random generator where :func:`capture_rng` found it.

    States of devices that this machine does not have are passed over: nothing can draw from them.

    Raises
    ------
    InputError
        ``state`` did not come from :func:`capture_rng`.
    """
    import torch

    expected = ("torch", "cuda", "xpu", "mps", "python", "numpy")
    if missing := [name for name in expected if name not in state]:
        raise InputError(
            f"rng: expected the states of {', '.join(expected)}, as capture_rng() returns them; "
            f"{', '.join(missing)} missing. Start the run from its beginning."
        )
    torch.set_rng_state(state["torch"].cpu())
    for kind in ("cuda", "xpu"):
        if state[kind]:
            module: Any = getattr(torch, kind)
            for device, generator in enumerate(state[kind][: module.device_count()]):
                module.set_rng_state(generator.cpu(), device)
    if state["mps"] and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"][0].cpu())
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(_arrays(state["numpy"]))  # noqa: NPY002


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _lists(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _arrays(v) for k, v in value.items()}
    return np.array(value, dtype=np.uint64) if isinstance(value, list) else value


def _type_name(value: Any) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
