"""Torn or edited plans, fits, recipes, sweeps and trackers' folders are read, or refused in words."""

from __future__ import annotations

import gzip
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flops_fit
from flops_fit import ModelSizes, RunTable, SweepPlan, load_fit, read_mlflow, read_tensorboard
from flops_fit.cli.sweep_file import read_sweep
from flops_fit.errors import FlopsFitError
from flops_fit.examples import FashionMNISTDataset
from flops_fit.laws import Hoffmann
from flops_fit.recipes import read_recipe
from flops_fit.records import Experiment, Run
from flops_fit.store import examine, recorded_runs
from flops_fit.store.read import recorded_findings, recorded_flops, training_curves
from flops_fit.trackers import MLflowTracker, TensorBoardTracker
from tests._mutated import mutated_bytes, mutated_json
from tests.conftest import MLP, make_experiment
from tests.fit._runs import sweep as runs_of

RECIPE = """
name = "own"
base = "default"
weight_decay = 0.05
[lr]
coefficient = 0.3
params = -0.25
"""
SWEEP = """
model_cls = "flops_fit.examples:GPT"
model_size_param = "width"
sizes = [8, 16, 32]
compute_budgets = [1e9, 3e9]
batch_size = 8
hparams = { lr = 0.01, recipe = "default" }
[design]
kind = "grid"
[mode]
kind = "mock"
law = "hoffmann2022"
[training]
precision = "fp32"
"""
SIZES = "width,depth,params,flops_per_unit\n8,2,1e3,6e3\n16,2,4e3,2.4e4\n32,4,3e4,1.8e5\n"
PIXELS = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)


def _idx(values: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
    return gzip.compress(head + values.tobytes(), mtime=0)


def _plan() -> bytes:
    plan = flops_fit.plan_sweep(MLP, "width", compute_budgets=[1e9, 3e9], sizes=[8, 12, 16])
    return plan.to_json().encode()


def _fit(folder: Path) -> bytes:
    law = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)
    table = runs_of(law, (1e18, 1e19, 1e20), 6, sd=0.003)
    fit = flops_fit.fit_runs(table, "hoffmann", window=None)
    return fit.save(folder / "sound.json").read_bytes()


def _read_images(path: Path) -> object:
    labels = np.array([1, 2], dtype=np.uint8)
    path.with_name("train-labels-idx1-ubyte.gz").write_bytes(_idx(labels))
    return len(FashionMNISTDataset(data_dir=path.parent))


def _read_fit(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # edited runs give other constants
        return str(load_fit(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


# By a name: the file, what it holds, how it is mutated, and what reads it.
FILES: dict[
    str,
    tuple[
        str,
        Callable[[Path], bytes],
        Callable[[bytes], st.SearchStrategy[bytes]],
        Callable[[Path], object],
    ],
] = {
    "plan": ("plan.json", lambda _: _plan(), mutated_json, lambda p: str(SweepPlan.from_json(p))),
    "fit": ("fit.json", _fit, mutated_json, _read_fit),
    "recipe": ("recipe.toml", lambda _: RECIPE.encode(), mutated_bytes, read_recipe),
    "sizes": ("sizes.csv", lambda _: SIZES.encode(), mutated_bytes, lambda p: ModelSizes(params=p)),
    "sweep": (
        "sweep.toml",
        lambda _: SWEEP.encode(),
        mutated_bytes,
        lambda p: read_sweep(p, {}).arguments(planning=True),
    ),
    "images": (
        "train-images-idx3-ubyte.gz",
        lambda _: _idx(PIXELS),
        lambda content: mutated_bytes(content) | mutated_bytes(gzip.decompress(content)).map(
            lambda raw: gzip.compress(raw, mtime=0)
        ),
        _read_images,
    ),
}  # fmt: skip
CONTENTS: dict[str, bytes] = {}


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=60)
def test_a_mutated_file_is_read_or_refused(folder: Path, name: str, data: st.DataObject) -> None:
    file, content, mutated, read = FILES[name]
    path = folder / file
    if name not in CONTENTS:
        CONTENTS[name] = content(folder)
        path.write_bytes(CONTENTS[name])
        assert read(path)
    path.write_bytes(data.draw(mutated(CONTENTS[name])))
    assert str(refused_or(read, path))


def refused_or(read: Callable[[Path], object], path: Path) -> object:
    """What is read, or the library's own error, which has words; any other error passes."""
    try:
        return read(path)
    except FlopsFitError as error:
        return error


# --- folders


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sound") / "sweep"
    flops_fit.find_optimal(
        MLP, "width", compute_budgets=[1e15, 3e15, 1e16], mode="mock", output_dir=place,
        progress=False,
    )  # fmt: skip
    run = sorted((place / "runs").iterdir())[0]
    lines = [f'{{"step": {i}, "loss": {3 - 0.1 * i}, "units": {8 * i}}}' for i in range(1, 9)]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    return place


def _read_folder(place: Path) -> object:
    runs = recorded_runs(place)
    table = RunTable.from_runs(runs) if runs else None
    known = None if table is None else recorded_flops(place, table)
    curves = training_curves(place, runs)
    return str(examine(place)), table, known, curves, recorded_findings(place)


def _track(place: Path, tracker: Any) -> Path:
    for seed in (1, 2):
        experiment: Experiment = make_experiment(seed=seed)
        tracker.start(experiment)
        for step in (10, 30, 50):
            values = {"step": step, "units": 8 * step, "loss": 3.0 - 0.01 * step, "lr": 0.01}
            tracker.log(experiment, values)
        tracker.finish(Run(experiment, "completed", loss=2.4, tokens=400))
    return place


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("board")
    return _track(place, TensorBoardTracker(place))


@pytest.fixture(scope="module")
def mlruns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mlflow")
    return _track(place, MLflowTracker("sweep", place))


FOLDERS: dict[str, Callable[[Path], object]] = {
    "swept": _read_folder,
    "board": lambda place: RunTable.read(read_tensorboard(place)),
    "mlruns": lambda place: RunTable.read(read_mlflow("sweep", place)),
}


@pytest.mark.parametrize("name", FOLDERS)
@given(data=st.data())
@settings(max_examples=60)
def test_a_folder_with_a_mutated_file_is_read_or_refused(
    request: pytest.FixtureRequest, folder: Path, name: str, data: st.DataObject
) -> None:
    sound: Path = request.getfixturevalue(name)
    files = sorted(p.relative_to(sound) for p in sound.rglob("*") if p.is_file())
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(sound, place)
    path = data.draw(st.sampled_from(files))
    content = (sound / path).read_bytes()
    mutated = mutated_json if path.suffix == ".json" else mutated_bytes
    (place / path).write_bytes(data.draw(mutated(content)))
    assert str(refused_or(FOLDERS[name], place))
