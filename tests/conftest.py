"""Small models and data that every test may use."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.pop("PYTHONUNBUFFERED", None)  # what is printed has to keep its order without it
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile PyTorch again

import pytest
from hypothesis import settings

from flops_fit.hparams import HParams
from flops_fit.records import Experiment, ParamCount
from flops_fit.train import Trainer
from tests._scripts import Scripts

settings.register_profile("shared-machine", deadline=None)  # nothing timed is asserted
settings.load_profile("shared-machine")

# `make test-lowest` runs the tests that need no torch, where none is installed.
_NEEDS_TORCH = re.compile(
    r"^ *(import torch|from torch)|^from tests.conftest import .*\b(MLP|Blobs|cross_entropy)\b"
    r"|\b(find_optimal|plan_sweep)\(|^from tests.(api|tune)\b",
    re.M,
)
if importlib.util.find_spec("torch") is None:
    _FILES = sorted(Path(__file__).parent.rglob("test_*.py"))
    collect_ignore = [str(p) for p in _FILES if _NEEDS_TORCH.search(p.read_text("utf-8"))]
else:
    import torch
    from torch import nn

    torch.set_num_threads(1)

    class MLP(nn.Module):
        """16 → width → 4, without biases: N = 20·width and 6N − 2·16·width FLOPs a sample."""

        def __init__(self, width: int = 8) -> None:
            super().__init__()
            if width % 2:
                raise ValueError(f"width must be even, got {width}")
            self.up = nn.Linear(16, width, bias=False)
            self.down = nn.Linear(width, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(torch.relu(self.up(x)))

    @dataclass
    class Blobs(torch.utils.data.Dataset):
        """Four clouds of points and which one each came of."""

        size: int = 4000
        seed: int = 0

        def __post_init__(self) -> None:
            generator = torch.Generator().manual_seed(self.seed)
            self.y = torch.randint(4, (self.size,), generator=generator)
            centres = torch.randn(4, 16, generator=torch.Generator().manual_seed(99))
            self.x = centres[self.y] + torch.randn(self.size, 16, generator=generator)

        def __len__(self) -> int:
            return self.size

        def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
            return self.x[i], self.y[i]

    def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, targets)


@pytest.fixture
def blobs() -> Blobs:
    pytest.importorskip("torch")
    return Blobs()


# What takes longest, by its file and function: `make test` leaves it to `make test-slow`.
SLOW = (
    "adaptive/test_criterion.py::test_a_drifting_exponent_stays_inside",
    "adaptive/test_find_optimal.py::test_the_name_answers",
    "adaptive/test_find_optimal.py::test_training_goes",
    "adaptive/test_sweep.py::test_a_pilot_far_beside",
    "adaptive/test_sweep.py::test_a_size_that_diverges",
    "adaptive/test_sweep.py::test_a_sweep_finds_a_known_optimum",
    "adaptive/test_sweep.py::test_equal_losses_lead",
    "api/test_find.py::test_killed_half_way_the_same_call_continues[pool]",
    "api/test_joint.py::test_an_adaptive_design_tunes",
    "api/test_tune.py::test_the_same_call_goes_on",
    "cli/test_cli.py::test_the_demo_trains",
    "cli/test_demo_images.py::test_the_demo_on_images_trains",
    "examples/test_scripts.py::test_the_gpt_example_trains",
    "execute/test_chaos.py::test_a_pools_sweep_under_kill_9",
    "execute/test_contract.py::TestSlurmLocally::test_training_gives",
    "execute/test_contract.py::test_a_script_without_a_main_guard",
    "execute/test_contract.py::test_two_ranks_train_a_run",
    "execute/test_ray.py::TestRay::test_a_cancelled_run",
    "execute/test_ray.py::TestRay::test_a_command_is_a_run",
    "execute/test_ray.py::TestRay::test_every_submitted_run",
    "execute/test_ray.py::TestRay::test_no_more_run",
    "execute/test_ray.py::TestRay::test_training_gives",
    "execute/test_ray.py::TestRay::test_what_is_printed",
    "fit/test_compare.py::test_a_known_gain_is_found[0.5]",
    "fit/test_compare.py::test_a_known_gain_is_found[1.3]",
    "fit/test_compare.py::test_intervals_hold_the_truth",
    "fit/test_coverage.py::test_ninety_per_cent",
    "fit/test_experts.py::test_intervals_of_the_gain_hold",
    "fit/test_groups.py::test_the_test_of_equal_exponents",
    "fit/test_questions.py::test_ninety_per_cent",
    "fit/test_saving.py::test_a_saved_fit_comes_back_with_every_answer[search]",
    "fit/test_search.py::test_laws_of_repeated_data_are_tried",
    "laws/test_steps.py::test_a_search_tries_it",
    "plan/test_transformers.py::test_a_family_with_masks_is_planned_and_trained[bart]",
    "plan/test_transformers.py::test_a_family_with_masks_is_planned_and_trained[bert]",
    "plan/test_transformers.py::test_a_family_with_masks_is_planned_and_trained[mistral]",
    "report/test_figures.py::test_keys_stay_in_the_figure_at_any_resolution[few",
    "report/test_figures.py::test_keys_stay_in_the_figure_at_any_resolution[lost-100]",
    "report/test_tuned_figures.py::test_page_and_figures",
    "test_benchmarks.py::test_a_store_of_many_runs",
    "test_benchmarks.py::test_published_numbers_are_met",
    "test_docs.py::test_a_page_runs_from_top_to_bottom",
    "train/test_checkpoint.py::test_a_kill_at_any_instant_loses_nothing_that_was_saved[random]",
    "train/test_hopeless.py::test_a_killed_sweep_goes_on",
    "train/test_hopeless.py::test_several_at_once_make",
    "train/test_hopeless.py::test_without_the_option",
    "tune/test_joint.py::test_an_adaptive_sweep_decides_the_same",
    "tune/test_joint.py::test_runs_made_again_in_a_pilot",
)

# Files of few tests that take long: they come first, or the others would have ended before them.
LONG = tuple(
    f"tests/{name}.py"
    for name in ("train/test_ranks", "cli/test_sweep_commands", "execute/test_ray", "api/test_tune")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(SLOW) and "README" not in item.nodeid:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    """Where a fresh process has to run something that imports PyTorch."""
    made = Scripts(tmp_path_factory.mktemp("scripts"))
    yield made
    made.close()


@pytest.fixture
def sweep(blobs: Blobs) -> dict[str, Any]:
    """Arguments of a real sweep that takes a second."""
    return {
        "model_cls": MLP,
        "model_size_param": "width",
        "dataset": blobs,
        "loss_fn": cross_entropy,
        "compute_budgets": [2.03e5, 4.06e5, 8.12e5],  # whole steps at each size
        "sizes": [4, 6, 8, 12],
        "batch_size": 8,
        "progress": False,
    }


def make_experiment(**changes: Any) -> Experiment:
    """A plain experiment, changed where a test says so."""
    hparams = {
        "lr": 0.01,
        "batch_units": 8,
        "warmup": 0.1,
        "schedule": "cosine",
        "weight_decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "clip": 1.0,
        "recipe": "test",
    }
    values: dict[str, Any] = {
        "model": "tests.conftest.MLP",
        "model_kwargs": {},
        "size": 8,
        "params": ParamCount(160, 160, 160, 160),
        "budget": 704.0 * 8 * 50,
        "tokens": 400,
        "steps": 50,
        "batch_size": 8,
        "units_per_sample": 1.0,
        "unit": "samples",
        "flops_per_unit": 704.0,
        "flops_per_unit_6nd": 960.0,
        "hparams": HParams.from_dict(hparams),
        "seed": 1,
        "repeat": 0,
        "fingerprint": "abc",
        "epochs": 0.1,
    }
    return Experiment(**{**values, **changes})


def with_changes(trainer: Trainer, **changes: Any) -> Trainer:
    """A trainer with other values, some of them those of its TrainingConfig."""
    own = {f.name for f in fields(Trainer)}
    config = replace(trainer.config, **{k: v for k, v in changes.items() if k not in own})
    return replace(trainer, config=config, **{k: v for k, v in changes.items() if k in own})
