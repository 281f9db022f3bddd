"""A run computes in the numbers it names, and the process is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from flops_fit.errors import InputError, InputTypeError
from flops_fit.train import config
from flops_fit.train.config import Precision, resolve_precision

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


def flags() -> tuple[Any, ...]:
    old = (MATMUL.allow_tf32, CUDNN.allow_tf32, torch.get_float32_matmul_precision())
    if not hasattr(MATMUL, "fp32_precision"):
        return old
    cpu = torch.backends.mkldnn.matmul.fp32_precision
    return (*old, MATMUL.fp32_precision, CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision, cpu)


@pytest.fixture(autouse=True)
def _flags_are_left_alone() -> Iterator[None]:
    before = flags()
    yield
    assert flags() == before


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device that computes in bfloat16."""
    monkeypatch.setattr(config, "_has_bf16", lambda device: str(device).startswith("cuda"))


@pytest.fixture
def no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_has_bf16", lambda device: False)


def test_bf16_multiplies_in_bfloat16_and_keeps_parameters_and_gradients() -> None:
    torch.manual_seed(0)
    model, x = torch.nn.Linear(8, 4), torch.randn(3, 8)
    with Precision("bf16").autocast("cpu"):
        out = model(x)
        loss = torch.nn.functional.cross_entropy(out, torch.tensor([0, 1, 2]))
    assert out.dtype == torch.bfloat16
    loss.backward()
    assert model.weight.grad is not None
    assert model.weight.dtype == model.weight.grad.dtype == torch.float32
    assert torch.allclose(out.float(), model(x), atol=0.02)
    assert not torch.equal(out.float(), model(x))


def test_fp32_changes_nothing() -> None:
    torch.manual_seed(0)
    model, x = torch.nn.Linear(8, 4), torch.randn(3, 8)
    with Precision("fp32").autocast("cpu"):
        out = model(x)
    assert torch.equal(out, model(x))


@pytest.mark.parametrize("device", ["cpu", "mps", torch.device("cpu")])
def test_auto_is_fp32_off_cuda(device: Any) -> None:
    assert resolve_precision("auto", device) == Precision("fp32")


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_auto_is_bf16_on_cuda_where_the_hardware_has_it(device: str) -> None:
    assert resolve_precision("auto", device) == Precision("bf16")
    tf32 = Precision("fp32", tf32=True)
    assert resolve_precision(tf32, device) == tf32


@pytest.mark.usefixtures("no_bf16")
def test_older_cuda_devices_get_fp32_and_refuse_bf16() -> None:
    assert resolve_precision("auto", "cuda") == Precision("fp32")
    for asked in ("bf16", Precision("bf16")):
        with pytest.raises(InputError, match="cuda does not"):
            resolve_precision(asked, "cuda")


def test_a_value_and_bf16_on_a_cpu_are_taken_at_their_word() -> None:
    assert resolve_precision("bf16", "cpu") == Precision("bf16")
    assert resolve_precision(Precision("fp32", tf32=True), "cpu") == Precision("fp32", tf32=True)


@pytest.mark.parametrize("name", ["fp16", "bfloat16", None])
def test_an_unknown_precision_names_the_known(name: Any) -> None:
    with pytest.raises(InputError, match="expected 'auto', 'fp32' or 'bf16'"):
        resolve_precision(name, "cpu")


def test_tf32_is_true_or_false() -> None:
    with pytest.raises(InputTypeError, match="tf32: expected True or False"):
        Precision("fp32", tf32="high")  # type: ignore[arg-type]


@pytest.mark.parametrize("on", [True, False])
def test_tf32_holds_for_products_and_convolutions_within_the_run(on: bool) -> None:
    with Precision("fp32", tf32=on).flags("cuda:0"):
        assert MATMUL.allow_tf32 is on
        assert CUDNN.allow_tf32 is on
        assert torch.get_float32_matmul_precision() == ("high" if on else "highest")


def test_the_flags_come_back_after_an_error() -> None:
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        Precision("fp32", tf32=True).flags("cuda"),
    ):
        raise RuntimeError("on purpose")


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_without_cuda_no_flag_is_touched(device: str) -> None:
    before = flags()
    with Precision("fp32", tf32=True).flags(device):
        assert flags() == before


@pytest.mark.skipif(not hasattr(MATMUL, "fp32_precision"), reason="torch before 2.9")
@pytest.mark.parametrize("on", [True, False])
def test_flags_set_by_the_newer_names_come_back(on: bool) -> None:
    kept = (CUDNN.allow_tf32, MATMUL.fp32_precision, CUDNN.conv.fp32_precision)
    try:
        # torch calls reading the older name an error where only the newer one was set.
        MATMUL.fp32_precision, CUDNN.conv.fp32_precision = "ieee", "ieee"
        with Precision("fp32", tf32=on).flags("cuda"):
            assert MATMUL.fp32_precision == CUDNN.conv.fp32_precision == ("tf32" if on else "ieee")
            assert CUDNN.allow_tf32 is on
        assert (MATMUL.fp32_precision, CUDNN.conv.fp32_precision) == ("ieee", "ieee")
    finally:
        CUDNN.allow_tf32, MATMUL.fp32_precision, CUDNN.conv.fp32_precision = kept


@pytest.mark.parametrize("on", [True, False])
def test_a_coarser_choice_of_the_user_comes_back(on: bool) -> None:
    with config.tf32_flags(on):  # puts the flags back at its end
        torch.set_float32_matmul_precision("medium")
        before = flags()
        with Precision("fp32", tf32=on).flags("cuda"):
            assert torch.get_float32_matmul_precision() == ("high" if on else "highest")
        assert flags() == before
