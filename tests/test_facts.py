"""What a run says of its FLOPs and of the data it saw, and that a fit hears it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flops_fit
from flops_fit import reference
from flops_fit.records import ParamCount, Run
from flops_fit.store import Store
from flops_fit.table import RunTable
from tests.conftest import MLP, Blobs, cross_entropy, make_experiment

PUBLISHED = reference.law("muennighoff2023")
BATCH, PER_SAMPLE = 100, 1000.0


def finished(**changes: Any) -> Run:
    experiment = make_experiment(**changes)
    tokens, flops = experiment.tokens, experiment.flops
    return Run(experiment, "completed", loss=2.0, tokens=tokens, flops=flops)


def test_each_convention_has_its_own_n() -> None:
    run = finished(params=ParamCount(1000, 600, 700, 1000), flops_per_unit_6nd=6000.0)
    assert run.flops == 704.0 * 400
    assert run.flops_6nd == 6 * 1000 * 400
    assert run.flops_6nd_matmul == 6 * 700 * 400
    assert run.flops_6nd_non_embedding == 6 * 600 * 400


@pytest.mark.parametrize(
    ("epochs", "unique"), [(0.1, 400), (1.0, 400), (2.0, 200), (400 / 150, 150), (400.0, 1)]
)
def test_units_are_new_until_the_data_ends(epochs: float, unique: int) -> None:
    run = finished(epochs=epochs)
    assert run.epochs == pytest.approx(epochs)
    assert (run.unique_tokens, run.repeated_tokens) == (unique, 400 - unique)


def test_a_stream_has_no_known_supply() -> None:
    run = finished(epochs=None)
    assert (run.epochs, run.unique_tokens, run.repeated_tokens) == (None, None, None)
    assert RunTable.read([run]).unique_tokens is None
    both = RunTable.read([run, finished(epochs=4.0)]).unique_tokens
    np.testing.assert_array_equal(both, [np.nan, 100.0])


def test_a_run_cut_short_saw_what_it_saw() -> None:
    """Planned for four epochs and stopped after one and a half."""
    run = replace(finished(epochs=4.0), state="diverged", tokens=150, flops=704.0 * 150)
    assert run.samples == 150
    assert run.epochs == pytest.approx(1.5)
    assert (run.unique_tokens, run.repeated_tokens) == (100, 50)
    failed = Run(make_experiment(epochs=4.0), "failed")
    assert (failed.epochs, failed.unique_tokens, failed.repeated_tokens) == (0.0, 0, 0)


def test_masked_targets_are_no_units_of_the_data() -> None:
    """Where half as many are counted as planned, the data has half as many, and D/U stays."""
    run = replace(finished(epochs=4.0), tokens=200)
    assert run.unique_tokens == 50


def test_what_is_trained_is_counted_so(tmp_path: Path) -> None:
    """190 of 200 samples train: a real sweep's epochs and new samples, in its table too."""
    plan = flops_fit.plan_sweep(
        MLP, "width", None, Blobs(200), cross_entropy, [5e5, 1e6], sizes=[4, 8], batch_size=5
    )
    runs = flops_fit.run_sweep(plan, output_dir=tmp_path, progress=False)
    for run in runs:
        assert run.epochs == pytest.approx(run.tokens / 190)
        assert run.unique_tokens == 190
        assert run.gradient_norm is not None
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert [float(r["unique_tokens"]) for r in rows] == [190.0] * len(runs)
    assert [float(r["flops_6nd"]) for r in rows] == [
        6.0 * r.experiment.params.total * r.tokens for r in runs
    ]
    assert all(r["mfu"] == "" and float(r["units_per_second"]) > 0 for r in rows)


def test_a_record_without_these_facts_is_read() -> None:
    values = finished().to_dict()
    del values["gradient_norm"], values["mfu"]
    run = Run.from_dict(json.loads(json.dumps(values)))
    assert run == finished()


def test_a_record_with_them_survives_json() -> None:
    run = replace(finished(), gradient_norm=0.5, mfu=0.41)
    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def repeating(samples: int, total: int, epochs: float, noise: float) -> Run:
    """A run as the trainer would leave it, on ``samples`` samples, its loss the published law's."""
    steps = round(samples * epochs / BATCH)
    tokens = round(BATCH * steps * PER_SAMPLE)
    experiment = make_experiment(
        size=total,
        params=ParamCount(total, total, total, total),
        tokens=tokens,
        steps=steps,
        batch_size=BATCH,
        units_per_sample=PER_SAMPLE,
        budget=6.0 * total * tokens,
        flops_per_unit=6.0 * total,
        flops_per_unit_6nd=6.0 * total,
        epochs=BATCH * steps / samples,
    )
    unique = min(tokens, samples * PER_SAMPLE)
    loss = float(PUBLISHED.loss(total, tokens, unique)) * np.exp(noise)
    return Run(experiment, "completed", loss=loss, tokens=tokens, flops=experiment.flops)


def test_own_runs_on_repeated_data_determine_their_law(tmp_path: Path) -> None:
    """From Run objects and from runs.csv alike: R*_D near the truth, and the same in both."""
    rng = np.random.default_rng(0)
    runs = [
        repeating(samples, int(total), epochs, 0.003 * rng.normal())
        for samples in (1_000_037, 5_000_011, 20_000_003)
        for total in np.geomspace(2e7, 2e9, 6)
        for epochs in (0.5, 1.0, 2.0, 4.0, 8.0, 20.0, 60.0)
    ]
    unique = RunTable.read(runs).unique_tokens
    assert unique is not None
    assert len(np.unique(unique)) == 9  # three supplies; three halves and three first epochs
    path = Store.open(tmp_path).write_table(runs)
    fits = [flops_fit.fit_runs(source, "muennighoff") for source in (runs, str(path))]
    for fit in fits:
        assert fit.law.params["R_D"] == pytest.approx(PUBLISHED.R_D, rel=0.15)
        assert "R_D_identified" in {d.code for d in fit.diagnostics}
    for name, value in fits[0].law.params.items():
        assert fits[1].law.params[name] == pytest.approx(value, rel=1e-6)
    scarce = fits[0].predict(1e22, unique_tokens=1e9)
    assert scarce.expected_loss > fits[0].predict(1e22).expected_loss
