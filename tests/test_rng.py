"""The generators of torch, NumPy and Python are seeded, captured and put back on every device."""

from __future__ import annotations

import doctest
import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from flops_fit import rng
from flops_fit.rng import capture, restore
from tests.train.test_checkpoint import equal


def test_torch_and_numpy_do_not_draw_the_same_numbers() -> None:
    """They fill one kind of generator: from one key both would draw alike."""
    with rng.kept("cpu"):
        rng.seed(1)
        words = np.random.get_state()[1]  # noqa: NPY002
        ours = torch.default_generator.get_state().numpy().tobytes()
        assert torch.initial_seed() == 1
        assert words[:8].astype(np.uint64).tobytes() not in ours


class _Device:
    """A device's module of torch, of which only the generators are there."""

    def __init__(self) -> None:
        self.generators = [torch.Generator(), torch.Generator()]
        self.current = 0

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return len(self.generators)

    def get_rng_state_all(self) -> list[torch.Tensor]:
        return [g.get_state() for g in self.generators]

    def get_rng_state(self) -> torch.Tensor:
        return self.generators[0].get_state()

    def set_rng_state(self, state: torch.Tensor, device: int = 0) -> None:
        self.generators[device].set_state(state)

    def manual_seed(self, seed: int) -> None:
        self.generators[self.current].manual_seed(seed)

    def device(self, name: str) -> Any:
        self.current = torch.device(name).index or 0
        return nullcontext()


@pytest.mark.parametrize(("kind", "name"), [("cuda", "cuda:1"), ("xpu", "xpu:1"), ("mps", "mps")])
def test_a_devices_generator_is_kept_saved_and_seeded(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    device = _Device()
    for method in ("is_initialized", "get_rng_state_all", "get_rng_state", "set_rng_state"):
        monkeypatch.setattr(getattr(torch, kind), method, getattr(device, method), raising=False)
    for method in ("device_count", "manual_seed", "device"):
        monkeypatch.setattr(getattr(torch, kind), method, getattr(device, method), raising=False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    monkeypatch.setattr(torch, "empty", lambda *shape, device: None)
    mine = device.generators[0 if kind == "mps" else 1]
    before = mine.get_state()
    with rng.kept(name):
        rng.seed(3, device=name)
        assert mine.initial_seed() == 3
        state = capture()
        first = torch.rand(4, generator=mine)
        rng.restore(state)
        assert torch.equal(torch.rand(4, generator=mine), first)
    assert torch.equal(mine.get_state(), before)


def test_capturing_draws_nothing() -> None:
    state = capture()
    assert equal(capture(), state)


def test_states_of_absent_cuda_devices_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    restored = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: restored.append((state, device))
    )
    states = [torch.zeros(16, dtype=torch.uint8), torch.ones(16, dtype=torch.uint8)]
    restore({**capture(), "cuda": states})
    assert restored == [(states[0], 0)]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(1),
        lambda: np.random.rand(),  # noqa: NPY002
        lambda: np.random.randn(),  # noqa: NPY002
        lambda: random.random(),
        lambda: random.gauss(0, 1),
        lambda: [random.getrandbits(32) for _ in range(624)],
        lambda: rng.seed(3),
        lambda: np.random.seed(1),  # noqa: NPY002
    ],
)
@pytest.mark.parametrize("held_back", [False, True])
def test_every_draw_is_seen(draw: Any, held_back: bool) -> None:
    if held_back:
        np.random.randn(), random.gauss(0, 1)  # noqa: NPY002
    rng.seed(5)
    untouched = rng.draw()
    rng.seed(5)
    assert rng.draw() == untouched
    rng.seed(5)
    draw()
    assert rng.draw() != untouched


@pytest.mark.parametrize("held_back", [False, True])
@pytest.mark.parametrize("held_back_later", [False, True])
def test_a_mark_puts_the_cpu_generators_back_each_time(
    held_back: bool, held_back_later: bool
) -> None:
    with rng.kept("cpu"):
        rng.seed(5)
        if held_back:
            np.random.randn(), random.gauss(0, 1)  # noqa: NPY002
        before = capture()
        put_back = rng.mark()
        assert equal(capture(), before)
        for key in (6, 7):
            rng.seed(key)
            if held_back_later:
                np.random.randn(), random.gauss(0, 1)  # noqa: NPY002
            put_back()
            assert equal(capture(), before)


def test_a_mark_puts_back_another_generator_of_numpy() -> None:
    module: Any = np.random
    twister = module.get_bit_generator()
    with rng.kept("cpu"):
        try:
            module.set_bit_generator(np.random.PCG64(5))
            with rng.kept():
                first = np.random.random()  # noqa: NPY002
            assert np.random.random() == first  # noqa: NPY002
        finally:
            module.set_bit_generator(twister)


def test_a_mark_puts_back_the_twister_that_was_replaced() -> None:
    module: Any = np.random
    twister, before = module.get_bit_generator(), capture()
    with rng.kept():
        module.set_bit_generator(np.random.PCG64(5))
        np.random.random()  # noqa: NPY002
    assert module.get_bit_generator() is twister
    assert equal(capture(), before)


def test_the_examples_in_docstrings_are_true() -> None:
    assert doctest.testmod(rng).failed == 0
