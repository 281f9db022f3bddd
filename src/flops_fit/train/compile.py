"""Whether a run's forward passes are compiled, and going on without where that fails."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from flops_fit import rng
from flops_fit.plan.timing import Speed
from flops_fit.records import Experiment

Compile = Literal["auto"] | bool

_FEWEST_SECONDS = 480.0  # compiling costs a minute on a slow host and gains a quarter at least
_FEWEST_STEPS = 200  # a first step that is slow is no large part of so many
_DEVICES = ("cuda", "xpu")


def pays_to_compile(
    compile: Compile,
    device: str,
    speed: Speed | None,
    experiment: Experiment,
    left: int,
    ranks: int = 1,
) -> bool:
    """What ``"auto"`` means for the ``left`` steps of a run that ``ranks`` processes share.

    True on CUDA and XPU devices where 200 steps and 480 predicted seconds, or more, are left; False
    where nothing was predicted. On a CPU a small model's step gains little from it.
    """
    if compile != "auto":
        return compile
    if speed is None or device.partition(":")[0] not in _DEVICES or left < _FEWEST_STEPS:
        return False
    return speed.seconds(experiment) * left / experiment.steps / ranks >= _FEWEST_SECONDS


class Forward:
    """What forward passes in training go through: the model, or what torch made of it.

    The compiled form shares the parameters of the model, which stays as it is: its state has the
    names it always had, and it is evaluated as it is. So the held-out losses of a sweep come from
    one arithmetic, and evaluation's modes and shapes compile nothing.

    Shapes are torch's affair (``dynamic=None``): a dimension that changes becomes a symbol at its
    second value, so batches of any length need two or three compilations and not one each.

    Attributes
    ----------
    used
        What to call.
    """

    def __init__(self, model: Any) -> None:
        self.used = self._model = model
        self._told = ""
        self._before: tuple[Any, dict[str, Any]] | None = None
        self._proven = True

    def compile(self) -> None:
        """Let torch compile the model at its next pass."""
        import torch

        self._proven = False
        # Runs of other sizes share the model's code, and torch compiles a code eight times at most.
        torch.compiler.reset()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, at its imports
                self.used = torch.compile(self._model)
        except Exception as error:  # a system or a Python that it does not know
            self._fall_back(error)
        else:
            self._told = "compiled by torch.compile"

    def begin(self) -> None:
        """A step begins: before the first, keep what a pass that fails half-way would leave changed."""
        if not self._proven and self._before is None:
            buffers = {name: b.detach().clone() for name, b in self._model.named_buffers()}
            self._before = rng.capture(), buffers

    def worked(self) -> str:
        """A step's gradient is there; what to note of it, once a run."""
        self._before, self._proven = None, True
        note, self._told = self._told, ""
        return note

    def gave_up(self, error: Exception) -> bool:
        """Whether ``error`` may come of compiling; then the model is called as it is from here on.

        In the first step it may be anything: if it was the user's own, it comes again. Later on
        only what torch's compiler raises counts, as for a shape that is new.
        """
        if self.used is self._model or (self._proven and not _of_the_compiler(error)):
            return False
        self._fall_back(error)
        return True

    def _fall_back(self, error: Exception) -> None:
        import torch

        self.used = self._model
        reason = " ".join(str(error).strip().splitlines()[:2])  # whose compiler, and what it said
        self._told = f"not compiled: {type(error).__name__}: {reason}"
        if self._before is not None:
            rng.restore(self._before[0])
            with torch.no_grad():
                for name, buffer in self._model.named_buffers():
                    if name in self._before[1]:
                        buffer.copy_(self._before[1][name])
        torch.compiler.reset()


def _of_the_compiler(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
