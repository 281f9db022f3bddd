"""The loss of a batch as (sum of loss, count of units), which add up over microbatches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from flops_fit import rng
from flops_fit.batches import batch_length, by_name, is_of_samples, to_device
from flops_fit.errors import InputError, InputTypeError, LossError, ModelError
from flops_fit.fingerprint import digest, fingerprint_code, reference
from flops_fit.lazy import torch

STEP_ADVICE = (
    "give step_fn=(model, batch) -> (loss·n, n) with n the number of units, such as "
    "lambda model, batch: (model(*batch)[1] * len(batch[0]), len(batch[0]))."
)
IGNORED = -100  # torch's cross_entropy leaves these targets out by default


@dataclass(frozen=True)
class Objective:
    """The user's loss over a batch, and the number of units it averages.

    ``loss_fn(output, targets)`` is the mean over the units that ``count_fn(batch)`` counts: by default
    integer targets other than −100, else samples. ``step_fn(model, batch) -> (loss sum, count)`` replaces
    both. ``shifted``: the model leaves out the first label of each row. ``target``: the name of targets
    that the model does not take. ``by_sample``: the step counts samples, whatever a batch ends with.
    """

    loss_fn: Callable[..., Any] | None = None
    count_fn: Callable[[Any], int] | None = None
    step_fn: Callable[..., Any] | None = None
    shifted: bool = False
    target: str = ""
    by_sample: bool = False

    def __post_init__(self) -> None:
        for name in ("loss_fn", "count_fn", "step_fn"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise InputTypeError(f"{name}: expected a callable; got {type(value).__name__}.")
            if isinstance(value, type) and hasattr(value, "forward"):
                raise InputTypeError(
                    f"{name}: got the class {value.__name__}; give {value.__name__}()."
                )

    @property
    def call(self) -> str:
        """How the user's function is called, in words."""
        if self.step_fn is not None:
            return ", as step_fn(model, batch)"
        return "" if self.loss_fn is None else ", and the loss as loss_fn(model output, targets)"

    @property
    def reference(self) -> str:
        """The name of the loss, for people to read."""
        used = self.step_fn or self.loss_fn
        return reference(used) if used is not None else "the model's own .loss"

    def fingerprint(self) -> str:
        """A hash of the code of all three."""
        used = (self.loss_fn, self.count_fn, self.step_fn)
        parts = ["" if f is None else fingerprint_code(f) for f in used]
        return digest(parts + ["shifted"] * self.shifted + [self.target] * bool(self.target))

    def __call__(self, model: Any, batch: Any) -> tuple[torch.Tensor, Any]:
        """Sum of the loss over the batch, with its gradient, and the number of units."""
        if self.step_fn is not None:
            return self._stepped(model, batch)
        count, mean = self.count(batch), self.mean(model, batch)
        if getattr(mean, "dtype", None) in (torch.float16, torch.bfloat16):
            mean = mean.float()  # whose sum over many units such numbers do not hold
        return mean * count, count

    def _stepped(self, model: Any, batch: Any) -> tuple[torch.Tensor, Any]:
        step: Any = self.step_fn
        if why := _misfit(step, (model, batch), {}):
            raise LossError(f"step_fn: expected a function (model, batch); {why}.")
        found = step(model, batch)
        pair = isinstance(found, tuple | list) and len(found) == 2
        if not pair or found[0] is None or isinstance(found[0], tuple | list | Mapping):
            got = f"a first value of {type(found[0]).__name__}" if pair else type(found).__name__
            raise LossError(
                "step_fn: expected (loss·n, n), one loss for one optimizer, and the number of units; "
                f"got {got}. Add up the losses of several parts. Models that train against each other, each "
                "with an optimizer of its own, are not supported."
            )
        return found[0], found[1]

    def mean(self, model: Any, batch: Any) -> Any:
        """The loss as the user's function returns it, or the model itself."""
        output = self.output(model, batch)
        if self.loss_fn is not None:
            return self.loss_fn(output, self._parts(batch)[1])
        own = _own_loss(output)
        if own is None:
            named = by_name(batch)
            hint = ""
            if named is not None and "labels" not in named:
                hint = (
                    " Models of Hugging Face compute it where a batch has labels; this one has "
                    f"{', '.join(map(str, named))}."
                )
            if len(several := _scalars(output)) > 1:
                hint = (
                    f" It has the scalars {', '.join(map(str, several))}: if one optimizer trains their "
                    "sum, return that as loss; models that train against each other are not supported."
                )
            raise LossError(
                "loss_fn: training needs a loss; got none, and the model's output "
                f"({type(output).__name__}) carries no .loss, nor one scalar.{hint} Give loss_fn=(model "
                f"output, targets) -> scalar; or {STEP_ADVICE}"
            )
        return own

    def output(self, model: Any, batch: Any) -> Any:
        """What the model returns for a batch."""
        inputs, _ = self._parts(batch)
        forward = getattr(model, "forward", model)
        if self.loss_fn is None and isinstance(batch, tuple | list):
            # The model computes its loss, for which it needs the targets.
            inputs = inputs if _misfit(forward, batch, {}) else tuple(batch)
        args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
        try:
            return model(*args, **kwargs)
        except TypeError as error:
            if why := _misfit(forward, args, kwargs):
                raise ModelError(
                    f"model_cls: {type(model).__name__}.forward does not take a batch of the data set: "
                    f"{why}. It is called with all of a tuple but the last, which loss_fn= gets as the "
                    "targets, or with the names of a dict. Change the data set or the arguments of "
                    f"forward; or {STEP_ADVICE}"
                ) from error
            raise

    def _parts(self, batch: Any) -> tuple[Any, Any]:
        """A batch as (what the model is called with, targets): by name, or a tuple with the targets last."""
        named = by_name(batch)
        if named is not None and self.target:
            return {k: v for k, v in named.items() if k != self.target}, named[self.target]
        if named is not None:
            key = _label_key(batch) or ("" if self.loss_fn is not None else _row_key(named))
            return named, named[key] if key else None
        parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        return parts[:-1] or parts, parts[-1]

    def with_target(self, model: Any, batch: Any) -> Objective:
        """The objective that keeps the one name that ``model.forward`` does not know as the targets."""
        named = by_name(batch)
        if self.loss_fn is None or self.step_fn is not None or named is None:
            return self
        try:
            parameters = inspect.signature(model.forward).parameters
        except (TypeError, ValueError, AttributeError):
            return self
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return self
        left = [name for name in named if name not in parameters]
        if len(left) > 1 or (left and _label_key(batch) in parameters):
            raise InputError(
                f"dataset: expected batches of what {type(model).__name__}.forward takes "
                f"({', '.join(parameters)}) and one name more, the targets of loss_fn=; got "
                f"{', '.join(left)} besides. Leave out what is not used, or give step_fn=."
            )
        return replace(self, target=left[0]) if left else self

    def count(self, batch: Any) -> Any:
        """Units in a batch; a 0-d tensor where they are counted on the device."""
        if self.count_fn is not None:
            return self.count_fn(batch)
        _, targets = self._parts(batch)
        if self.by_sample:
            return batch_length(batch)
        if _is_whole(targets):
            return counted(targets[:, 1:] if self.shifted else targets).sum()
        # The first tensor of a batch of graphs holds nodes; targets are of samples.
        return batch_length(targets if is_of_samples(targets) else batch)

    def has_classes(self, batch: Any) -> bool:
        """Whether targets are integers, as those of classes are."""
        return not (self.step_fn or self.by_sample) and _is_whole(self._parts(batch)[1])

    def is_elementwise(self, model: Any, batch: Any) -> bool:
        """Whether the model gives one number for each of the targets, as for several labels a sample."""
        if self.step_fn is not None:
            return False
        with torch.no_grad():
            output, targets = self.output(model, batch), self._parts(batch)[1]
        return output.numel() == targets.numel() if hasattr(output, "numel") else False

    def with_targets(self, batch: Any, value: int) -> Any:
        """A batch whose targets are all ``value``."""
        inputs, targets = self._parts(batch)
        alike = torch.full_like(targets, value)
        if (named := by_name(batch)) is not None:
            return {k: alike if v is targets else v for k, v in named.items()}
        return (*inputs, alike) if isinstance(batch, tuple | list) else alike

    def targets(self, batch: Any) -> Any:
        """The targets of a batch; ``None`` where it names none."""
        return self._parts(batch)[1]

    def has_units(self, batch: Any) -> bool:
        """Whether a batch has any unit; assumed on a device (counting would wait) and with step_fn."""
        if self.step_fn is not None:
            return True
        count = self.count(batch)
        on_host = getattr(count, "device", None) is None or count.device.type == "cpu"
        return not on_host or int(count) > 0

    def may_shift(self, batch: Any) -> bool:
        """Whether the model computes the loss of rows of labels, and so might shift them itself."""
        if self.loss_fn or self.step_fn or self.count_fn or _label_key(batch) is None:
            return False
        targets = self._parts(batch)[1]
        return _is_whole(targets) and targets.dim() == 2 and targets.shape[1] >= 2

    def shifts(self, model: Any, batch: Any) -> bool | None:
        """Whether one that may shift does: the mean over first labels is NaN or 0. ``None`` if unclear."""
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                first, second = (float(self.mean(model, _only(batch, i))) for i in (0, 1))
        except Exception:  # the user's model may raise anything, or know no masked labels
            return None
        finally:
            model.train(was_training)
        if second != second or second == 0:
            return None
        return first != first or first == 0

    def unit(self, batch: Any, dataset: Any = None) -> str:
        """The counted unit: as the data set declares, else tokens for sequences, else samples."""
        declared = getattr(dataset, "unit", None)
        if isinstance(declared, str):
            return declared
        targets = self.targets(batch)
        rows = not self.by_sample and _is_whole(targets) and any(n != 1 for n in targets.shape[1:])
        return "tokens" if rows else "samples"

    def rows_counted(self, batch: Any) -> str:
        """The name of the rows of whole numbers that are counted as a batch names no labels; else empty."""
        others = self.count_fn or self.loss_fn or self.by_sample or _label_key(batch)
        return "" if others else _row_key(by_name(batch) or {})


def _own_loss(output: Any) -> Any:
    """The loss that a model returns: ``.loss``, ``["loss"]``, or the one scalar tensor."""
    if isinstance(output, Mapping) and "loss" in output:
        return output["loss"]
    if hasattr(output, "loss"):
        return output.loss
    scalars = _scalars(output)
    return next(iter(scalars.values())) if len(scalars) == 1 else None


def _scalars(output: Any) -> dict[Any, Any]:
    """The scalar tensors that a model returns, by name or place."""
    parts = output if isinstance(output, Mapping | tuple | list) else [output]
    named = parts.items() if isinstance(parts, Mapping) else enumerate(parts)
    return {k: v for k, v in named if hasattr(v, "backward") and v.dim() == 0}


def _misfit(function: Any, args: Any, kwargs: Any) -> str:
    """What the arguments of a function lack or have too many of; empty if they fit."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    except (ValueError, AttributeError):
        pass
    return ""


def _label_key(batch: Any) -> str | None:
    named = by_name(batch) or {}
    return next((k for k in ("labels", "label", "targets") if k in named), None)


def _row_key(named: Mapping[str, Any]) -> str:
    """The first name where all are rows of whole numbers of one shape, as of tokens and masks; else empty."""
    values = list(named.values())
    rows = all(hasattr(v, "is_floating_point") and _is_whole(v) and v.dim() == 2 for v in values)
    if not rows or len({tuple(v.shape) for v in values}) != 1:
        return ""
    return next((k for k, v in named.items() if v.dtype != torch.bool), "")


def _only(batch: Any, column: int) -> dict[str, Any]:
    """A named batch with all labels masked but those of one column."""
    named, key = dict(by_name(batch) or {}), _label_key(batch)
    assert key is not None
    kind = named[key].dtype if named[key].dtype.is_signed else torch.int64
    labels = torch.full_like(named[key], IGNORED, dtype=kind)
    # A masked row would say nothing of the column: any token will do as its label.
    labels[:, column] = named[key][:, column].clamp(min=0)
    return {**named, key: labels}


def counted(targets: Any) -> torch.Tensor:
    """Which targets count: all but −100, which bytes and booleans cannot hold."""
    if not targets.dtype.is_signed:  # torch wraps −100: a byte of 156 would equal it
        return torch.ones_like(targets, dtype=torch.bool)
    return cast("torch.Tensor", targets != IGNORED)


def _is_whole(targets: Any) -> bool:
    numbers = hasattr(targets, "is_floating_point") and not targets.is_complex()
    return numbers and not targets.is_floating_point()


def check_loss(loss: Any) -> torch.Tensor:
    """The loss itself, if it is a scalar that can be differentiated; else LossError."""
    if not hasattr(loss, "backward"):
        got = type(loss).__name__
        if loss is None:
            got += f". A model is called without its targets: if it returns its loss, {STEP_ADVICE[:-1]}"
    elif loss.dim() != 0:
        got = f"a tensor of shape {tuple(loss.shape)}. Take its mean over the batch's units"
    elif not loss.requires_grad:
        got = (
            "a loss that has no gradient with respect to the model's parameters. Compute it from "
            "the model's output, without .detach(), .item() or no_grad, and leave it trainable weights"
        )
    else:
        return cast("torch.Tensor", loss)
    raise LossError(f"loss_fn: expected a scalar tensor with a gradient; got {got}.")


def refuse_sparse_gradients(model: Any) -> None:
    """Refuse gradients that clipping cannot measure, nor AdamW and ranks add up."""
    names = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.is_sparse]
    if names:
        raise ModelError(
            f"model_cls: expected dense gradients; those of {', '.join(names)} are sparse, which clipping "
            "and AdamW do not take. Build the layer with sparse=False, which trains the same model."
        )


@dataclass
class Evaluator:
    """Sum of the loss and units of a batch, drawn from given random numbers.

    ``draws``: whether any are drawn, as the first batch shows. A loss that itself takes a gradient, of the
    model's output with respect to its input, is evaluated with one.
    """

    model: Any
    objective: Objective
    device: str = "cpu"
    draws: bool | None = None
    _graph: bool = False

    def __call__(self, batch: Any, seed: int | None = 0) -> tuple[float, float]:
        """The two numbers; without a seed random numbers go on."""
        if seed is not None:
            rng.seed(seed, device=self.device)
        before = rng.state() if self.draws is None else None
        try:
            with torch.set_grad_enabled(self._graph):
                total, count = self.objective(self.model, to_device(batch, self.device))
        except RuntimeError as error:
            if self._graph or "grad" not in str(error):
                raise
            self._graph = True
            return self(batch, seed)
        if before is not None:
            self.draws = rng.state() != before
        return float(total.detach()), float(count)
