"""The loss of a batch as (sum of loss, count of units), which add up over microbatches."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from flops_fit import rng
from flops_fit.errors import DataError, InputError, InputTypeError, LossError, ModelError
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
    that the model does not take.
    """

    loss_fn: Callable[..., Any] | None = None
    count_fn: Callable[[Any], int] | None = None
    step_fn: Callable[..., Any] | None = None
    shifted: bool = False
    target: str = ""

    def __post_init__(self) -> None:
        for name in ("loss_fn", "count_fn", "step_fn"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise InputTypeError(f"{name}: expected a callable; got {type(value).__name__}.")

    def check(self, batch: Any) -> None:
        """Refuse to train without any loss."""
        if self.loss_fn is None and self.step_fn is None and by_name(batch) is None:
            raise InputError(
                "loss_fn: training needs a loss; got none. Give loss_fn=(model output, targets) -> "
                "scalar, or batches as dicts to a model whose output carries .loss. If the model returns "
                f"its loss itself, alone or beside its output, {STEP_ADVICE}"
            )

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
            total, count = self.step_fn(model, batch)
            return total, count
        count = self.count(batch)
        return self.mean(model, batch) * count, count

    def mean(self, model: Any, batch: Any) -> Any:
        """The loss as the user's function returns it."""
        output = self.output(model, batch)
        if self.loss_fn is not None:
            return self.loss_fn(output, self._parts(batch)[1])
        own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if own is None:
            raise LossError(
                "loss_fn: expected a function (model output, targets) -> scalar; got none, and the "
                f"model's output ({type(output).__name__}) carries no .loss. Give loss_fn=; or, if the "
                f"model returns its loss itself, {STEP_ADVICE}"
            )
        return own

    def output(self, model: Any, batch: Any) -> Any:
        """What the model returns for a batch."""
        inputs, _ = self._parts(batch)
        args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
        try:
            return model(*args, **kwargs)
        except TypeError as error:
            if why := _misfit(model, args, kwargs):
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
            key = _label_key(batch)
            return named, None if key is None else named[key]
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
        if _is_whole(targets):
            return ((targets[:, 1:] if self.shifted else targets) != IGNORED).sum()
        return batch_length(batch)

    def has_classes(self, batch: Any) -> bool:
        """Whether targets are integers, as those of classes are."""
        return self.step_fn is None and _is_whole(self._parts(batch)[1])

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
        """Whether the model shifts: with only first labels its mean is then NaN or 0. ``None`` if unclear."""
        if not self.may_shift(batch):
            return False
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
        _, targets = self._parts(batch)
        return "tokens" if _is_whole(targets) and targets.dim() >= 2 else "samples"


def _misfit(model: Any, args: Any, kwargs: Any) -> str:
    """What the arguments of a model's forward pass lack or have too many of; empty if they fit."""
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    except (ValueError, AttributeError):
        pass
    return ""


def by_name(batch: Any) -> Mapping[str, Any] | None:
    """A dict, or a dataclass as one; ``None`` where the batch has no names."""
    if isinstance(batch, Mapping):
        return batch
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return None


def _label_key(batch: Any) -> str | None:
    named = by_name(batch) or {}
    return next((k for k in ("labels", "label", "targets") if k in named), None)


def _only(batch: Any, column: int) -> dict[str, Any]:
    """A named batch with all labels masked but those of one column."""
    named, key = dict(by_name(batch) or {}), _label_key(batch)
    assert key is not None
    labels = named[key].new_full(named[key].shape, IGNORED)
    # A masked row would say nothing of the column: any token will do as its label.
    labels[:, column] = named[key][:, column].clamp(min=0)
    return {**named, key: labels}


def _is_whole(targets: Any) -> bool:
    return hasattr(targets, "is_floating_point") and not targets.is_floating_point()


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
            "the model's output, without .detach(), .item() or no_grad"
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

    def __call__(self, batch: Any, seed: int = 0) -> tuple[float, float]:
        """The two numbers."""
        rng.seed(seed, device=self.device)
        before = rng.state() if self.draws is None else None
        try:
            with torch.enable_grad() if self._graph else torch.inference_mode():
                total, count = self.objective(self.model, to_device(batch, self.device))
        except RuntimeError as error:
            if self._graph or "grad" not in str(error):
                raise
            self._graph = True
            return self(batch, seed)
        if before is not None:
            self.draws = rng.state() != before
        return float(total.detach()), float(count)


def batch_length(batch: Any) -> int:
    """Number of samples in a batch: the first dimension of its first tensor."""
    if hasattr(batch, "shape"):
        return int(batch.shape[0]) if len(batch.shape) else 1
    named = by_name(batch)
    values = batch if named is None else named.values()
    return batch_length(next(iter(values)))


def split_batch(batch: Any, size: int) -> Iterator[Any]:
    """A batch as parts of at most ``size`` samples: every tensor is cut along its first dimension."""
    length = batch_length(batch)
    if size >= length:
        yield batch
        return

    for first in range(0, length, size):

        def cut(tensor: torch.Tensor, first: int = first) -> torch.Tensor:
            if tensor.dim() and tensor.shape[0] != length:
                raise DataError(
                    f"microbatches: expected {length} samples along the first dimension of every "
                    f"tensor of a batch; one has the shape {tuple(tensor.shape)}. Use batches that "
                    "fit at once, or a collate_fn that puts samples first."
                )
            return tensor[first : first + size] if tensor.dim() else tensor

        yield map_tensors(batch, cut)


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """``value`` with every tensor in it changed, whatever the nesting."""
    if hasattr(value, "detach"):
        return change(value)
    if isinstance(value, Mapping):
        changed = {k: map_tensors(v, change) for k, v in value.items()}
        if type(value) is dict:
            return changed
        copied: Any = copy.copy(value)  # HuggingFace's BatchEncoding, a defaultdict, one's own
        if not hasattr(copied, "__setitem__"):
            return type(copied)(changed)
        for key, item in changed.items():
            copied[key] = item
        return copied
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(v, change) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(v, change) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Not by its constructor, which may check or convert what it is given.
        changed_value = copy.copy(value)
        for f in dataclasses.fields(value):
            object.__setattr__(changed_value, f.name, map_tensors(getattr(value, f.name), change))
        return changed_value
    return value


def tensors_of(batch: Any) -> list[Any]:
    """All tensors of a batch, in order."""
    out: list[Any] = []
    map_tensors(batch, out.append)
    return out


def to_device(batch: Any, device: str) -> Any:
    """A batch on ``device``, copied without waiting to CUDA, and in float32 to MPS, which has no float64."""
    kind = device.partition(":")[0]

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if kind == "mps" and tensor.dtype == torch.float64:
            tensor = tensor.float()
        return tensor.to(device, non_blocking=kind == "cuda")

    return map_tensors(batch, moved)
