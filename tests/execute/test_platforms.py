"""What other systems forbid is not done there."""

from __future__ import annotations

import multiprocessing
import os
import sys

import pytest
import torch

from flops_fit.errors import InputError, InputTypeError
from flops_fit.execute import PoolExecutor, process
from flops_fit.train.config import resolve_device


def test_a_pool_forks_on_linux_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        multiprocessing, "get_all_start_methods", lambda: ["spawn", "fork", "forkserver"]
    )
    monkeypatch.setattr(sys, "platform", "linux")
    assert process.start_method() == "forkserver"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert process.start_method() == "spawn"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert process.start_method() == "spawn"


def test_a_pool_counts_cores_where_there_is_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert PoolExecutor().capacity == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert PoolExecutor().capacity == 1


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_fastest_device_there_is(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto") == chosen


def test_a_named_device_is_taken() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize("device", ["cuda:99", "mps:7", "gpu", "meta", ""])
def test_a_device_that_is_not_there_is_refused_in_words(device: str) -> None:
    with pytest.raises(InputError, match="expected 'auto', 'cpu' or a torch device"):
        resolve_device(device)


@pytest.mark.parametrize("device", [0, None, ["cpu"]])
def test_what_names_no_device_is_a_type_error(device: object) -> None:
    with pytest.raises(InputTypeError, match="device: expected .* got"):
        resolve_device(device)
