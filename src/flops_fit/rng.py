"""The global random generators of torch, NumPy and Python: seed, capture, restore, keep."""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from flops_fit.lazy import torch

RngState = dict[str, Any]


def seed(key: int, numpy_key: Any = None, device: str | None = None) -> None:
    """Seed all CPU generators, NumPy by ``numpy_key`` or a hash, and that of ``device`` if it has its own."""
    torch.default_generator.manual_seed(key)
    random.seed(key)
    if numpy_key is None:
        numpy_key = np.random.SeedSequence(key).generate_state(4)
    np.random.seed(numpy_key)  # noqa: NPY002 - the global generator
    kind = torch.device(device).type if device is not None else "cpu"
    if kind == "mps":
        torch.mps.manual_seed(key)
    elif kind in ("cuda", "xpu"):
        module: Any = getattr(torch, kind)
        with module.device(device):
            module.manual_seed(key)


def capture() -> RngState:
    """The state of every global generator, as plain values that a checkpoint may hold.

    >>> state = capture()
    >>> first = random.random()
    >>> restore(state)
    >>> random.random() == first
    True
    """
    on_devices: dict[str, list[Any]] = {"cuda": [], "xpu": [], "mps": []}
    for kind in ("cuda", "xpu"):
        module: Any = getattr(torch, kind)
        if module.is_initialized():  # asking would start a device that nothing uses
            on_devices[kind] = [state.cpu() for state in module.get_rng_state_all()]
    if torch.backends.mps.is_available():
        on_devices["mps"] = [torch.mps.get_rng_state().cpu()]
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        **on_devices,
        "python": [version, list(words), gauss],
        "numpy": json.loads(json.dumps(numpy_state, default=lambda value: value.tolist())),
    }


def restore(state: Mapping[str, Any]) -> None:
    """Put the generators, of devices that are here, back to what :func:`capture` returned."""
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
    np.random.set_state(state["numpy"])  # noqa: NPY002


def mark() -> Callable[[], None]:
    """Remember the CPU generators; the result puts them back, faster than :func:`restore`."""
    module: Any = np.random
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    generator, numpy_state = module.get_bit_generator(), module.get_state(legacy=False)

    def put_back() -> None:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        module.set_bit_generator(generator)  # where the user's code set another
        module.set_state(numpy_state)

    return put_back


@contextmanager
def kept(device: str | None = None) -> Iterator[None]:
    """Put the CPU generators back at the end; with a ``device`` in use, those of all used devices too."""
    if device is not None:
        torch.empty(0, device=device)  # a device that was never used has no generator to keep
    put_back = mark() if device is None else partial(restore, capture())
    try:
        yield
    finally:
        put_back()


def draw() -> tuple[float, float, float]:
    """The next number of each CPU generator: the same twice if nothing was drawn since a seed."""
    return torch.rand(()).item(), np.random.random(), random.random()  # noqa: NPY002


def state() -> list[Any]:
    """The state of every global generator in plain values, to compare."""
    own = capture()
    tensors = [own["torch"], *own["cuda"], *own["xpu"], *own["mps"]]
    return [*(t.tolist() for t in tensors), own["python"], own["numpy"]]
