"""What devices can do is read by their whole name, and utilisation is FLOPs over that."""

from __future__ import annotations

from typing import Any

import pytest

import flops_fit
from flops_fit.errors import InputError, InputTypeError
from flops_fit.plan.cost import PEAKS
from flops_fit.train import Precision
from flops_fit.train.config import device_peak, peak_of
from flops_fit.train.monitor import Throughput
from tests.conftest import make_experiment
from tests.train.test_resume import every_reading, trainer

FP32, TF32, BF16 = Precision("fp32"), Precision("fp32", tf32=True), Precision("bf16")


@pytest.mark.parametrize(
    ("name", "fp32", "tf32", "bf16"),
    [
        ("Tesla V100-SXM2-16GB", 15.7, None, None),
        ("Tesla T4", 8.1, None, None),
        ("NVIDIA A10", 31.2, 62.5, 125.0),
        ("NVIDIA A40", 37.4, 74.8, 149.7),
        ("NVIDIA A100-SXM4-80GB", 19.5, 156.0, 312.0),
        ("NVIDIA A100-PCIE-40GB", 19.5, 156.0, 312.0),
        ("NVIDIA A100 80GB PCIe", 19.5, 156.0, 312.0),
        ("NVIDIA L4", 30.3, 60.0, 121.0),
        ("NVIDIA L40S", 91.6, 183.0, 362.0),
        ("NVIDIA RTX A6000", 38.7, 77.4, 154.8),
        ("NVIDIA GeForce RTX 3090", 35.6, 35.6, 71.0),
        ("NVIDIA GeForce RTX 4090", 82.6, 82.6, 165.2),
        ("NVIDIA H100 80GB HBM3", 66.9, 494.7, 989.4),
        ("NVIDIA H100 PCIe", 51.2, 378.0, 756.0),
        ("NVIDIA H100 NVL", 60.0, 417.5, 835.5),
        ("NVIDIA H200", 66.9, 494.7, 989.4),
        ("NVIDIA B200", None, 1125.0, 2250.0),
        ("AMD Instinct MI250X", 47.9, None, 191.5),
        ("AMD Instinct MI300X", 163.4, 653.7, 1307.4),
    ],
)
def test_devices_as_torch_names_them_have_their_dense_peaks(
    name: str, fp32: float | None, tf32: float | None, bf16: float | None
) -> None:
    expected = [None if v is None else pytest.approx(v * 1e12) for v in (fp32, tf32, bf16)]
    assert [peak_of(name, p) for p in (FP32, TF32, BF16)] == expected


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A10G",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H20",
        "Tesla T40",
        "",
    ],
)
def test_devices_with_like_names_have_none(name: str) -> None:
    assert peak_of(name, BF16) is None
    assert peak_of(name, FP32) is None


def test_formats_stand_in_the_ratios_that_the_units_have() -> None:
    """bf16 is twice TF32, give or take a data sheet's rounding: a sparse rate would be four times."""
    for pattern, peak in PEAKS.items():
        if peak.tf32 and peak.bf16:
            assert peak.bf16 / peak.tf32 == pytest.approx(2.0, rel=0.02), pattern
        if peak.tf32 and peak.fp32:
            assert peak.tf32 >= peak.fp32, pattern


def test_a_cpu_has_no_peak() -> None:
    assert device_peak("cpu", FP32) is None
    assert device_peak("mps", FP32) is None


def test_utilisation_is_that_of_the_steps_since_the_last_reading() -> None:
    pace = Throughput(flops_per_step=2e9, peak=1e12)
    pace.since_last(10, 100, 5.0)
    assert pace.since_last(20, 300, 5.1) == pytest.approx({"units_per_second": 2000.0, "mfu": 0.2})
    assert pace.since_last(25, 400, 5.2) == pytest.approx({"units_per_second": 1000.0, "mfu": 0.1})
    assert pace.mfu(25, 5.0) == pytest.approx(0.01)
    assert Throughput(2e9, None).since_last(1, 1, 1.0)["mfu"] is None


def test_a_run_records_its_share_of_a_peak_that_is_given() -> None:
    """MFU times peak times the time in steps is the FLOPs of the run."""
    run = trainer(peak_flops=1e9)(make_experiment())
    assert run.mfu is not None
    seconds_in_steps = run.tokens / run.units_per_second
    assert run.mfu * 1e9 * seconds_in_steps == pytest.approx(run.flops)
    assert trainer()(make_experiment()).mfu is None


def test_the_gradient_norm_on_record_is_the_mean_of_the_last_twentieth() -> None:
    """Of 100 steps the last five, as the curve has them."""
    norms: list[float] = []

    class Curve:
        def start(self, experiment: Any) -> None: ...
        def log(self, experiment: Any, values: Any) -> None:
            norms.append(values["gradient_norm"])

        def finish(self, run: Any) -> None: ...
        def fail(self, run: Any) -> None: ...

    with every_reading():
        run = trainer(trackers=(Curve(),))(make_experiment(steps=100, tokens=800))
    assert run.gradient_norm == pytest.approx(sum(norms[-5:]) / 5, rel=1e-5)


@pytest.mark.parametrize("peak", [0, -1.0, float("inf"), "fast", True])
def test_a_peak_is_a_positive_number(peak: Any) -> None:
    kind = InputTypeError if peak in ("fast", True) else InputError
    with pytest.raises(kind, match="peak_flops: expected the peak FLOP/s"):
        flops_fit.TrainingConfig(peak_flops=peak)


def test_a_peak_changes_no_id(sweep: dict[str, Any]) -> None:
    sweep.pop("progress")
    configs = [flops_fit.TrainingConfig(peak_flops=p) for p in (None, 1e12)]
    plans = [flops_fit.plan_sweep(**sweep, training=config) for config in configs]
    assert plans[0].experiments == plans[1].experiments
