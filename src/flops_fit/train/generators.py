"""A run's random numbers are its own: seeded when it begins, and nobody else's moved by it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from flops_fit.train.state import capture_rng, restore_rng


@contextmanager
def kept_generators(device: Any) -> Iterator[None]:
    """Whatever is drawn inside, every global generator goes on as it was.

    Those of torch on the CPU, of Python and of NumPy, and of CUDA, XPU and MPS devices in use;
    ``device`` is in use from here on.

    Examples
    --------
    >>> import random
    >>> random.seed(0)
    >>> with kept_generators("cpu"):
    ...     drawn = random.random()
    >>> drawn == random.random()
    True
    """
    import torch

    torch.empty(0, device=device)  # a device that was never used has no generator to keep
    before = capture_rng()
    try:
        yield
    finally:
        restore_rng(before)


def seed_generators(seed: int, device: Any) -> None:
    """Seed the generators that a model or a loss on ``device`` may draw from.

    torch on the CPU and on the device draw as after ``torch.manual_seed``. NumPy gets another key:
    it fills the same Mersenne twister as torch does, and from one key both would draw the same.
    Other devices are left alone.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(np.random.SeedSequence(seed).generate_state(4))  # noqa: NPY002 - the global one
    kind = torch.device(device).type
    if kind == "mps":
        torch.mps.manual_seed(seed)
    elif kind in ("cuda", "xpu"):
        module: Any = getattr(torch, kind)
        with module.device(device):
            module.manual_seed(seed)
