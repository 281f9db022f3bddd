"""Runs of Hugging Face's Trainer as rows of a table: what they saw and cost, counted while they train."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flops_fit.batches import map_tensors
from flops_fit.files import csv_text, output_errors
from flops_fit.model.params import count_params
from flops_fit.model.spec import ModelSpec
from flops_fit.objective import IGNORED, Objective
from flops_fit.plan.counting import FlopsCounter

_COLUMNS = (
    "run", "state", "params", "non_embedding", "tokens", "flops", "loss", "train_loss", "steps",
    "batch_size", "lr", "seconds",
)  # fmt: skip


class HFCallback:
    """Adds a row to ``runs.csv`` at the last evaluation of a run: ``Trainer(callbacks=[HFCallback()])``.

    ``fit_runs("runs.csv")`` reads it. Tokens are labels other than −100, of a causal model all but the
    first of each row. FLOPs are those of its batches, counted once for each shape as a plan counts them; or
    ``flops_per_token``, a number or a function of the model, for each token. What came before a resume is
    taken to be as much a step as what came after it. Runs of several processes may add to one file.
    """

    def __init__(
        self,
        path: str | Path = "runs.csv",
        flops_per_token: float | Callable[[Any], float] | None = None,
    ) -> None:
        self.path, self._flops = Path(path), flops_per_token
        self._counted: Any = 0
        self._spent = 0.0
        self._costs: dict[tuple[int, ...], float] = {}

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None  # the other events

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **more: Any) -> None:
        """Count what passes through the model from here on."""
        self._counted, self._spent, self._costs = 0, 0.0, {}
        self._begun, self._first = time.perf_counter(), state.global_step
        self._shifts = any(word in type(model).__name__ for word in ("CausalLM", "LMHead"))
        self._hook = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Count no more."""
        self._hook.remove()

    def _see(self, model: Any, inputs: Any, batch: Any) -> None:
        labels = batch.get("labels")
        if labels is None or not model.training:
            return
        units = ((labels[..., 1:] if self._shifts else labels) != IGNORED).sum()
        self._counted = self._counted + units  # on the device, which is not waited for
        if self._flops is None:
            shape = tuple(labels.shape)
            if shape not in self._costs:
                self._costs[shape] = _traced(model, batch)
            self._spent += self._costs[shape]

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any, model: Any, **more: Any
    ) -> None:
        """Add the row, once the run has made all of its steps."""
        if state.global_step < state.max_steps or not state.is_world_process_zero:
            return
        if not self._counted:  # it has been added
            return
        all_of_it = args.world_size * state.max_steps / max(state.max_steps - self._first, 1)
        tokens = round(int(self._counted) * all_of_it)
        given = self._flops(model) if callable(self._flops) else self._flops
        flops = self._spent * all_of_it if given is None else given * tokens
        loss = next((v for k, v in metrics.items() if k.endswith("_loss")), math.nan)
        logged = [entry["loss"] for entry in state.log_history if "loss" in entry]
        counted, finite = count_params(model), math.isfinite(loss)
        row = (
            args.run_name or Path(args.output_dir).name, "completed" if finite else "diverged",
            counted.total, counted.non_embedding, tokens, flops,
            loss if finite else "", logged[-1] if logged else "", state.max_steps,
            args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            args.learning_rate, round(time.perf_counter() - self._begun, 3),
        )  # fmt: skip
        head, line = csv_text([dict(zip(_COLUMNS, row, strict=True))]).splitlines(keepends=True)
        with (
            output_errors(self.path, "path"),
            self.path.open("a", newline="", encoding="utf-8") as file,
        ):
            file.write(line if file.tell() else head + line)
        self._counted = 0


def _traced(model: Any, batch: Any) -> float:
    """Training FLOPs of a batch, as a plan counts them for a model of this configuration."""
    kind, config = type(model), model.config
    batch = map_tensors(dict(batch), lambda tensor: tensor.detach().cpu())
    spec = ModelSpec(lambda: kind(config))
    counter, _ = FlopsCounter.from_batch(spec, Objective(), "measured", batch, "tokens")
    return counter.per_unit({}) * counter.units
