"""What TrainingConfig accepts, prints and leaves a mark of."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from flops_fit import TrainingConfig
from flops_fit.errors import FlopsFitError, InputError, InputTypeError
from flops_fit.trackers import TensorBoardTracker
from flops_fit.train.config import Precision


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"branch": 1}, InputTypeError, "branch: expected True or False; got 1"),
        ({"precision": "fp16"}, InputError, "precision: expected 'auto', 'fp32' or 'bf16'"),
        ({"microbatch": 0}, FlopsFitError, "microbatch: expected a whole number of samples"),
        ({"checkpoint_steps": -1}, FlopsFitError, "checkpoint_steps"),
        ({"checkpoint_seconds": float("inf")}, FlopsFitError, "checkpoint_seconds"),
        ({"compile": "yes"}, FlopsFitError, "compile: expected 'auto', True or False"),
        ({"parametrization": "mip"}, InputError, "parametrization: expected 'standard', 'mup'"),
    ],
)
def test_what_cannot_train_is_refused(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        TrainingConfig(**change)


def test_it_shows_what_differs_from_the_defaults() -> None:
    assert repr(TrainingConfig()) == "TrainingConfig()"
    assert repr(TrainingConfig(workers=2, branch=True)) == "TrainingConfig(workers=2, branch=True)"


def test_trackers_by_name_become_objects_once() -> None:
    config = TrainingConfig(trackers="tensorboard")
    (tracker,) = config.tracker_objects
    assert isinstance(tracker, TensorBoardTracker)
    assert config.tracker_objects[0] is tracker


def test_only_what_changes_an_outcome_is_in_the_fingerprints() -> None:
    for same in ({}, {"workers": 2}, {"microbatch": 2}, {"peak_flops": 1e12}):
        assert TrainingConfig(**same).fingerprints(Precision()) == []
    assert len(TrainingConfig(optimizer=torch.optim.SGD).fingerprints(Precision())) == 1
    judged = [TrainingConfig(eval_samples=n).fingerprints(Precision()) for n in (99, 100, 2048)]
    assert [len(parts) for parts in judged] == [1, 1, 0]
    assert judged[0] != judged[1]
    assert TrainingConfig(compile=True).fingerprints(Precision("bf16")) == [
        "Precision(name='bf16', tf32=False)",
        "compiled",
    ]


def test_it_can_be_pickled() -> None:
    config = TrainingConfig(parametrization="mup", precision="bf16")
    assert pickle.loads(pickle.dumps(config)) == config
