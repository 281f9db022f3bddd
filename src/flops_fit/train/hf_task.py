"""A run of a plan by Hugging Face's Trainer: its length, batch, rate and schedule are the plan's."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flops_fit.errors import InputError, MissingExtraError
from flops_fit.hparams import learning_rate
from flops_fit.records import Experiment, Run
from flops_fit.train.callbacks import HFCallback
from flops_fit.train.trainer import Progress, Report


@dataclass(frozen=True)
class HFTask:
    """Trains each run of a plan with ``transformers.Trainer``: ``run_sweep(plan, HFTask(...))``.

    ``model_init`` makes the model of a planned size; a size of several arguments is given by their names.
    ``args`` are ``TrainingArguments``: the plan sets steps, batch, seed, weight decay, β, clipping, and the
    learning rate of every step. Runs train in folders of their id below ``args.output_dir``, and go on from
    the last checkpoint there, if ``args`` saves any. ``trainer`` has further arguments of the Trainer, such
    as ``data_collator``. ``train_dataset`` is the plan's; the loss is ``eval_loss`` of ``eval_dataset``.
    InputError where processes and accumulation do not divide the batch.
    """

    model_init: Callable[..., Any]
    args: Any
    train_dataset: Any
    eval_dataset: Any
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, experiment: Experiment, report: Report | None = None) -> Run:
        """Train one run to its end and evaluate it."""
        try:
            from transformers import Trainer, set_seed
            from transformers.trainer_utils import get_last_checkpoint
        except ImportError as error:
            raise MissingExtraError("transformers", "tinystories", "HFTask") from error
        from torch.optim.lr_scheduler import LambdaLR

        e, hparams = experiment, experiment.hparams

        class Planned(Trainer):
            def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
                own: Any = optimizer or self.optimizer
                self.lr_scheduler = LambdaLR(
                    own,
                    lambda step: (
                        learning_rate(hparams, (step + 0.5) / e.steps * e.tokens, e.tokens)
                        / hparams.lr
                    ),
                )
                return self.lr_scheduler

        begun, args = time.perf_counter(), self._arguments(e)
        set_seed(e.seed)  # before the model is made
        model = (
            self.model_init(**e.size) if isinstance(e.size, Mapping) else self.model_init(e.size)
        )
        row: Any = _Counted(e, report)
        trainer = Planned(
            model,
            args,
            train_dataset=self.train_dataset,
            eval_dataset=self.eval_dataset,
            **self.trainer,
        )
        trainer.add_callback(row)
        folder = Path(args.output_dir)
        last = get_last_checkpoint(str(folder)) if folder.is_dir() else None  # type: ignore[no-untyped-call]
        trainer.train(resume_from_checkpoint=last)
        loss = float(trainer.evaluate()["eval_loss"])
        tokens = row.tokens or e.tokens  # as planned where batches have no labels to count
        return Run(
            e,
            "completed" if math.isfinite(loss) else "diverged",
            "" if math.isfinite(loss) else f"the held-out loss is {loss} after {e.steps} steps",
            loss=loss if math.isfinite(loss) else None,
            train_loss=row.last,
            tokens=tokens,
            flops=tokens * e.flops / e.tokens,
            seconds=time.perf_counter() - begun,
            device=str(args.device),
            resumed=int(last is not None),
        )

    def _arguments(self, e: Experiment) -> Any:
        """The user's arguments with those of the plan."""
        ways = (
            self.args.gradient_accumulation_steps * self.args.world_size * max(self.args.n_gpu, 1)
        )
        if e.batch_size % ways:
            raise InputError(
                f"HFTask: expected {ways} (processes times gradient_accumulation_steps) to divide the batch "
                f"of {e.batch_size}. Plan another batch_size=, or give other arguments."
            )
        return dataclasses.replace(
            self.args,
            output_dir=str(Path(self.args.output_dir) / e.id),
            max_steps=e.steps,
            per_device_train_batch_size=e.batch_size // ways,
            learning_rate=e.hparams.lr,
            weight_decay=e.hparams.weight_decay,
            adam_beta1=e.hparams.beta1,
            adam_beta2=e.hparams.beta2,
            max_grad_norm=e.hparams.clip,
            seed=e.seed,
            data_seed=e.seed,
        )


class _Counted(HFCallback):
    """Keeps what a run saw, and reports where it is."""

    def __init__(self, experiment: Experiment, report: Report | None) -> None:
        super().__init__(flops_per_token=experiment.flops / experiment.tokens)
        self._experiment, self._report = experiment, report
        self.tokens = 0
        self.last: float | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        """Report the loss since the last."""
        if logs and "loss" in logs:
            self.last = float(logs["loss"])
            if self._report is not None:
                e = self._experiment
                self._report(Progress(e.id, state.global_step, e.steps, self.last))

    def _write(self, model: Any, run: str, loss: float, ranks: int, *rest: Any) -> None:
        self.tokens = round(int(self._counted) * self._share(ranks))
