"""Hugging Face's Trainer trains what was planned, at the planned rates, and goes on from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import flops_fit
from flops_fit.hparams import learning_rate
from tests.train.test_callbacks import config

transformers = pytest.importorskip("transformers")


def make(width: int) -> Any:
    return transformers.LlamaForCausalLM(config(width))


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 400

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        ids = (torch.arange(12) * (i + 1)) % 31
        return {"input_ids": ids, "labels": ids}


class Rates(transformers.TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.rates: list[float] = []
        self.stop = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.stop and state.global_step >= self.stop:
            raise KeyboardInterrupt

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.rates.append(more["optimizer"].param_groups[0]["lr"])


def planned(**more: Any) -> Any:
    return flops_fit.plan_sweep(
        make, "width", dataset=Rows(), compute_budgets=[6e6], sizes=[8], batch_size=4, **more
    )


def arguments(folder: Path, **more: Any) -> Any:
    return transformers.TrainingArguments(
        str(folder), use_cpu=True, report_to=[], disable_tqdm=True, logging_steps=5, **more
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_run_is_what_was_planned(tmp_path: Path, schedule: str) -> None:
    plan = planned(hparams={"schedule": schedule, "final": 0.1})
    seen, reports = Rates(), []
    task = flops_fit.HFTask(
        make, arguments(tmp_path / "hf", save_strategy="no"), Rows(), Rows(), {"callbacks": [seen]}
    )
    (experiment,) = plan.experiments
    run = task(experiment, reports.append)
    assert run.state == "completed"
    assert run.tokens == experiment.tokens
    assert run.flops == experiment.flops
    assert 0 < run.loss < 3.6
    assert reports[-1].steps == experiment.steps
    steps = experiment.steps
    expected = [learning_rate(experiment.hparams, (i + 0.5) / steps) for i in range(steps)]
    assert seen.rates == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore")
def test_a_sweep_goes_on_from_a_checkpoint_with_the_same_outcome(tmp_path: Path) -> None:
    plan = planned()
    (experiment,) = plan.experiments

    def task(folder: str, *callbacks: Any) -> flops_fit.HFTask:
        own = arguments(tmp_path / folder, save_steps=10)
        return flops_fit.HFTask(make, own, Rows(), Rows(), {"callbacks": list(callbacks)})

    (whole,) = flops_fit.run_sweep(plan, task("whole"), output_dir=tmp_path / "a", progress=False)
    stopped = Rates()
    stopped.stop = 15
    with pytest.raises(KeyboardInterrupt):
        task("cut", stopped)(experiment)
    (resumed,) = flops_fit.run_sweep(plan, task("cut"), output_dir=tmp_path / "b", progress=False)
    assert resumed.resumed == 1
    assert resumed.loss == whole.loss
    assert resumed.tokens == whole.tokens == experiment.tokens


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_ended_before_its_evaluation_is_only_evaluated(tmp_path: Path) -> None:
    (experiment,) = planned().experiments
    own = arguments(tmp_path / "hf", save_steps=experiment.steps)
    task = flops_fit.HFTask(make, own, Rows(), Rows())
    whole, again = task(experiment), task(experiment)
    assert (again.loss, again.tokens, again.flops) == (whole.loss, whole.tokens, whole.flops)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    own = arguments(tmp_path, gradient_accumulation_steps=3)
    with pytest.raises(flops_fit.errors.InputError, match="expected 3 .* to divide the batch of 4"):
        flops_fit.HFTask(make, own, Rows(), Rows())(planned().experiments[0])
