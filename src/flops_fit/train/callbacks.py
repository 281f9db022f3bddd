"""Runs of other trainers as rows of a table: what they saw and cost, and where they will end."""

from __future__ import annotations

import copy
import math
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from flops_fit.batches import batch_length, map_tensors
from flops_fit.errors import FlopsFitError, InputError
from flops_fit.files import csv_text, output_errors
from flops_fit.forecasting import Forecast, Schedule, forecast
from flops_fit.lazy import torch
from flops_fit.model.params import count_params
from flops_fit.model.spec import ModelSpec
from flops_fit.objective import Objective, counted
from flops_fit.plan.counting import FlopsCounter

_COLUMNS = (
    "run", "state", "params", "non_embedding", "tokens", "flops", "loss", "train_loss", "steps",
    "batch_size", "lr", "seconds",
)  # fmt: skip
_FORECAST_SECONDS = 30.0  # between those that are logged


class _Row:
    """Counts what a run sees and spends, keeps its curve, and adds its row."""

    def __init__(self, path: str | Path, flops: Any, schedule: Schedule | None) -> None:
        self.path, self._flops, self._schedule = Path(path), flops, schedule
        self._begin(0, 1, None)

    def _begin(self, first: int, steps: int, scheduler: Any) -> None:
        self._counted: Any = 0
        self._spent, self._first, self._steps = 0.0, first, steps
        self._costs: dict[Any, float] = {}
        self._curve: list[tuple[float, float]] = []
        self._last_step, self._begun = first, time.perf_counter()
        self._due = self._begun + _FORECAST_SECONDS
        known = getattr(scheduler, "lr_lambdas", None)
        self._rate = self._schedule or (known[0] if known else None)

    def _count(self, units: Any, shape: Any, traced: Callable[[], float]) -> None:
        self._counted = self._counted + units  # on the device, which is not waited for
        if self._flops is None:
            if shape not in self._costs:
                self._costs[shape] = traced()
            self._spent += self._costs[shape]

    def _reading(self, step: int, loss: float) -> float | None:
        """Take a mean loss since the last; the loss at the end, where it is time to tell."""
        if step > self._last_step:
            self._curve.append(((self._last_step + step) / 2, loss))
            self._last_step = step
        if time.perf_counter() < self._due:
            return None
        self._due = time.perf_counter() + _FORECAST_SECONDS
        return None if (found := self.forecast) is None else found.value

    @property
    def forecast(self) -> Forecast | None:
        """The training loss at the end of the run by :func:`~flops_fit.forecast`; ``None`` too early.

        It needs a ``schedule``, or one of torch's ``LambdaLR``, as all of Hugging Face's are.
        """
        if self._rate is None or not self._curve:
            return None
        with suppress(FlopsFitError):
            steps, losses = zip(*self._curve, strict=True)
            return forecast((list(steps), list(losses)), self._rate, end=self._steps)
        return None

    def _share(self, ranks: int) -> float:
        """The whole run over what this process has counted since it went on."""
        return ranks * self._steps / max(self._steps - self._first, 1)

    def _write(self, model: Any, run: str, loss: float, ranks: int, batch: int, lr: float) -> None:
        steps, all_of_it = self._steps, self._share(ranks)
        tokens = round(int(self._counted) * all_of_it)
        given = self._flops(model) if callable(self._flops) else self._flops
        flops = self._spent * all_of_it if given is None else given * tokens
        counted, finite = count_params(model), math.isfinite(loss)
        row = (
            run, "completed" if finite else "diverged", counted.total, counted.non_embedding, tokens, flops,
            loss if finite else "", self._curve[-1][1] if self._curve else "", steps, batch, lr,
            round(time.perf_counter() - self._begun, 3),
        )  # fmt: skip
        head, line = csv_text([dict(zip(_COLUMNS, row, strict=True))]).splitlines(keepends=True)
        with (
            output_errors(self.path, "path"),
            self.path.open("a", newline="", encoding="utf-8") as file,
        ):
            file.write(line if file.tell() else head + line)
        self._counted = 0


class HFCallback(_Row):
    """Adds a row to ``runs.csv`` at the last evaluation of a run: ``Trainer(callbacks=[HFCallback()])``.

    ``fit_runs("runs.csv")`` reads it. Tokens are labels other than −100, of a causal model all but the
    first of each row. FLOPs are those of its batches, counted once for each shape as a plan counts them; or
    ``flops_per_token``, a number or a function of the model, for each token. What came before a resume is
    taken to be as much a step as what came after it. Runs of several processes may add to one file. Twice a
    minute what is logged gets ``expected_loss``, the loss at the end by :attr:`forecast`.
    """

    def __init__(
        self,
        path: str | Path = "runs.csv",
        flops_per_token: float | Callable[[Any], float] | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(path, flops_per_token, schedule)

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None  # the other events

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **more: Any) -> None:
        """Count what passes through the model from here on."""
        self._begin(state.global_step, state.max_steps, more.get("lr_scheduler"))
        self._shifts = any(word in type(model).__name__ for word in ("CausalLM", "LMHead"))
        self._hook = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Count no more."""
        self._hook.remove()

    def _see(self, model: Any, inputs: Any, batch: Any) -> None:
        labels = batch.get("labels")
        if labels is None or not model.training:
            return
        kind, config = type(model), model.config
        spec = ModelSpec(lambda: kind(config))
        units = counted(labels[..., 1:] if self._shifts else labels).sum()
        self._count(units, tuple(labels.shape), lambda: _traced(spec, Objective(), dict(batch)))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        """Add a point to the curve."""
        if logs and "loss" in logs:
            expected = self._reading(state.global_step, float(logs["loss"]))
            if expected is not None:
                logs["expected_loss"] = round(expected, 4)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any, model: Any, **more: Any
    ) -> None:
        """Add the row, once the run has made all of its steps."""
        if state.global_step < state.max_steps or not state.is_world_process_zero:
            return
        if not self._counted:  # it has been added
            return
        loss = next((v for k, v in metrics.items() if k.endswith("_loss")), math.nan)
        run = args.run_name or Path(args.output_dir).name
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self._write(model, run, loss, args.world_size, batch, args.learning_rate)


class LightningCallback(_Row):
    """Adds a row to ``runs.csv`` at the end of a run: ``Trainer(callbacks=[LightningCallback()])``.

    ``fit_runs("runs.csv")`` reads it. Of ``lightning`` and ``pytorch_lightning``, it is for the one that has
    been imported. Units are integer targets other than −100, the last of a batch that is a tuple, else
    samples; or what ``count_fn(batch)`` says. FLOPs are those of ``training_step`` and its backward pass,
    counted once for each shape of batch as a plan counts them; or ``flops_per_unit``, a number or a function
    of the module, for each unit. The loss is the metric ``loss``. A run that was stopped early gets no row.
    Twice a minute it logs ``expected_loss``, the loss at the end by :attr:`forecast`. ``run`` names the row.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> LightningCallback:
        """An instance that is a ``Callback`` of the trainer's package too."""
        packages = [sys.modules.get(name) for name in ("lightning.pytorch", "pytorch_lightning")]
        base = next((package.Callback for package in packages if package is not None), None)
        if base is None:
            raise InputError(
                "LightningCallback: expected lightning or pytorch_lightning to be imported; neither is. "
                "Import the one that trains first."
            )
        return super().__new__(type(cls.__name__, (cls, base), {"__module__": cls.__module__}))

    def __init__(
        self,
        path: str | Path = "runs.csv",
        flops_per_unit: float | Callable[[Any], float] | None = None,
        schedule: Schedule | None = None,
        *,
        run: str = "",
        loss: str = "val_loss",
        count_fn: Callable[[Any], int] | None = None,
    ) -> None:
        super().__init__(path, flops_per_unit, schedule)
        self._run, self._loss, self._objective = run, loss, Objective(count_fn=count_fn)

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Count from here on."""
        configs = trainer.lr_scheduler_configs
        by_step = configs and configs[0].interval == "step"
        steps = trainer.estimated_stepping_batches
        self._begin(trainer.global_step, steps, configs[0].scheduler if by_step else None)
        self._since: list[Any] = []
        self._batch = 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        """Count a batch."""
        units = self._objective.count(batch)
        shapes: list[tuple[int, ...]] = []

        def note(tensor: Any) -> Any:
            shapes.append(tuple(tensor.shape))
            return tensor

        map_tensors(batch, note)
        self._count(units, tuple(shapes), lambda: self._trace(module, batch, float(units)))
        if not self._batch:
            self._batch = batch_length(batch) * trainer.accumulate_grad_batches * trainer.world_size

    def _trace(self, module: Any, batch: Any, units: float) -> float:
        def step(model: Any, batch: Any) -> tuple[Any, float]:
            found = model.training_step(batch, 0)
            return (found["loss"] if isinstance(found, dict) else found) * units, units

        spec = ModelSpec(lambda: _without_values(module, self))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a copy without a trainer cannot log
            return _traced(spec, Objective(step_fn=step, count_fn=lambda batch: int(units)), batch)

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Add a point to the curve now and then."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            self._since.append(loss.detach())
        if trainer.global_step - self._last_step >= trainer.log_every_n_steps and self._since:
            mean = float(torch.stack(self._since).mean()) * trainer.accumulate_grad_batches
            self._since.clear()
            if (expected := self._reading(trainer.global_step, mean)) is not None:
                module.log("expected_loss", expected, prog_bar=True)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Add the row, once the run has made all of its steps."""
        if trainer.global_step < self._steps or not trainer.is_global_zero:
            return
        loss = float(trainer.callback_metrics.get(self._loss, math.nan))
        run = self._run or Path(trainer.log_dir or trainer.default_root_dir).name
        rate = trainer.optimizers[0].defaults["lr"] if trainer.optimizers else math.nan
        self._write(module, run, loss, trainer.world_size, self._batch, rate)


def _traced(spec: ModelSpec, objective: Objective, batch: Any) -> float:
    """Training FLOPs of a batch, as a plan counts them for a model of this kind."""
    batch = map_tensors(batch, lambda tensor: tensor.detach().cpu())
    counter, _ = FlopsCounter.from_batch(spec, objective, "measured", batch, "tokens")
    return counter.per_unit({}) * counter.units


def _without_values(module: Any, callback: object) -> Any:
    """A copy of a module whose tensors have no values, and which no trainer knows."""
    kept = {id(callback): callback, id(getattr(module, "_trainer", None)): None}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        kept[id(tensor)] = (
            torch.nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        )
    return copy.deepcopy(module, kept)
