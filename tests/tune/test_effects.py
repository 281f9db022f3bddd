"""Curves that are one curve but for their scale collapse onto it, and a run apart is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flops_fit.records import ParamCount, Run
from flops_fit.store import TrainingCurve, training_curves
from flops_fit.train.monitor import Metrics
from flops_fit.tune import collapse
from tests.conftest import make_experiment

SHARE = np.linspace(0.02, 0.98, 30)


def curve(size: int, end: float, power: float = 0.4, floor: float = 1.0) -> TrainingCurve:
    experiment = make_experiment(size=size, params=ParamCount(size, size, size, size), steps=300)
    run = Run(experiment, "completed", loss=end, train_loss=end)
    return TrainingCurve(run, SHARE, floor + (end - floor) * SHARE**-power)


def test_curves_of_one_shape_fall_onto_each_other():
    found = collapse([curve(s, 3 - s / 20) for s in range(2, 20, 2)], floor=1.0)
    inside = found.shares > 0.2
    assert float(np.max(found.spread[inside])) < 1e-3
    assert found.curves[0][inside] == pytest.approx(found.shares[inside] ** -0.4, rel=2e-3)
    assert found.odd == ()
    assert found.diagnostics == ()


def test_without_the_floor_they_do_not():
    found = collapse([curve(s, 3 - s / 10) for s in range(2, 20, 2)], floor=0.0)
    assert float(found.spread[5]) > 0.02


def test_a_run_with_another_shape_is_named():
    curves = [curve(s, 3 - s / 20, power=0.4 + 0.001 * s) for s in range(2, 20, 2)]
    found = collapse([*curves, curve(40, 2.0, power=0.8)], floor=1.0)
    assert found.odd == (curve(40, 2.0).run.experiment.label,)
    assert "1 of 10 runs" in found.diagnostics[0].message


def test_few_or_broken_curves_are_none():
    fine = [curve(size, 3.0) for size in (2, 4, 6, 8, 10)]
    diverged = [replace(c, run=replace(c.run, state="diverged")) for c in fine]
    assert collapse(diverged) is None
    assert collapse([curve(2, 3.0)]) is None


def test_curves_are_read_from_the_folder_of_a_sweep(tmp_path: Path):
    run = curve(8, 2.0).run
    folder = tmp_path / "runs" / run.experiment.id
    folder.mkdir(parents=True)
    lines = [
        '{"step": 1, "loss": 5.0}',
        '{"step": 151, "loss": 3.0}',
        '{"step": 150, "loss": 9}',
        '{"step": 1e999, "loss": 1}',
        f'{{"step": 1{"0" * 400}, "loss": 1}}',
        '{"step": 160, "loss": NaN}',
        "[" * 3000,
        '{"ste',
    ]
    path = folder / "metrics.jsonl"
    path.write_bytes("\n".join(lines).encode() + b'\n\xfb"step": 170, "loss": 1}')
    (found,) = training_curves(tmp_path, [run, replace(run, experiment=make_experiment(size=9))])
    assert found.share.tolist() == pytest.approx([0.5 / 300, 76 / 300])
    assert found.loss.tolist() == [5.0, 3.0]
    Metrics(folder, after=151).start(run.experiment)
    kept = [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert kept[:3] == [1, 151, 150]
    assert all(step is None or step <= 151 for step in kept)
