"""How many parameters a model has, under each convention."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from flops_fit.checks import is_number
from flops_fit.errors import InputTypeError, ModelError
from flops_fit.lazy import nn, torch
from flops_fit.records import ParamCount


@dataclass(frozen=True)
class Experts:
    """A layer of equal experts and a router: its name, how many, and their parameters."""

    name: str
    number: int
    params: int


def find_experts(model: Any) -> tuple[Experts, ...]:
    """Modules that hold n equal parts and a linear layer with n outputs to choose among them.

    The parts are a ``ModuleList`` of one class and shape, or parameters of three dimensions whose first is
    n, in a layer that is not one of torch's own.
    """
    if not isinstance(model, nn.Module):
        return ()
    layers = []
    for path, module in model.named_modules():
        children = dict(module.named_children())
        chosen = {c.out_features for c in children.values() if isinstance(c, nn.Linear)} - {1}
        for name, child in children.items():
            if isinstance(child, nn.ModuleList):
                shapes = {(type(m), *(tuple(p.shape) for p in m.parameters())) for m in child}
                numbers = {len(child)} if len(shapes) == 1 else set()
            else:
                homes = [kind.__module__ for kind in type(child).__mro__[:-2]]
                torchs = [h for h in homes if h.startswith("torch.nn.modules.")]
                own = all("container" in home for home in torchs)
                parts = child.parameters(recurse=False) if own else ()
                numbers = {p.shape[0] for p in parts if p.dim() == 3}
            if len(numbers) == 1 and (number := int(numbers.pop())) in chosen:
                params = sum(p.numel() for p in child.parameters())
                layers.append(Experts(f"{path}.{name}".lstrip("."), number, params))
    return tuple(layers)


def count_params(model: Any, name: str = "the model") -> ParamCount:
    """Count a model's parameters under each convention.

    A model's own ``num_params()`` is taken as its total, its ``active_params()`` as those that one unit
    passes; without them a torch module is counted. InputTypeError for what is neither; ModelError where a
    method raises or gives no positive whole number, more are active than there are, or there are none.
    """
    total = _declared(model, name, "num_params")
    active = _declared(model, name, "active_params")
    is_module = isinstance(model, torch.nn.Module)
    if not is_module and total is None:
        raise InputTypeError(
            f"model_cls: expected {name} to return a torch.nn.Module or an object with "
            f"num_params(); got {type(model).__name__}, which is neither."
        )
    if is_module:
        if any(isinstance(p, torch.nn.UninitializedParameter) for p in model.parameters()):
            raise ModelError(
                f"model_cls: {name} has lazy layers, whose sizes are unknown before the first batch. "
                "Give its layers their sizes."
            )
        total = sum(p.numel() for p in model.parameters()) if total is None else total
    if not total:
        raise ModelError(
            f"model_cls: {name} has no parameters, so it has no size. Check its constructor."
        )
    if active is not None and active > total:
        raise ModelError(
            f"model_cls: {name}.active_params() returned {active:,}, more than its {total:,} "
            "parameters. It must return those that one unit passes."
        )
    active = total if active is None else active
    if not is_module:
        return ParamCount(total, total, total, active)
    lookup, matrices = _lookup_and_matrices(model)
    weights: Counter[int] = Counter()
    for count, inputs in matrices.values():
        weights[inputs] += count
    return ParamCount(
        total=total,
        non_embedding=max(total - sum(lookup.values()), 1),
        matmul=weights.total(),
        active=active,
        # The number of inputs that the most weights belong to; of equals the largest.
        width=max(weights, key=lambda inputs: (weights[inputs], inputs), default=0),
    )


def _declared(model: Any, name: str, what: str) -> int | None:
    """What the model's own method or attribute says."""
    method = getattr(model, what, None)
    if method is None:
        return None
    try:
        value = method() if callable(method) else method
    except Exception as error:  # the user's method may raise anything
        raise ModelError(
            f"model_cls: {name}.{what}() raised {type(error).__name__}: {error}. "
            "Fix it, or leave it out and the parameters are counted."
        ) from error
    if not is_number(value) or value < 1:
        raise ModelError(
            f"model_cls: {name}.{what}() returned {value!r}; expected a positive whole number."
        )
    return int(value)


def _lookup_and_matrices(model: nn.Module) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
    """Sizes of parameters that are looked up, and (size, inputs) of those that multiply; tied are both."""
    conv = nn.modules.conv._ConvNd
    known = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, conv)
    lookup: dict[int, int] = {}
    matrices: dict[int, tuple[int, int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                lookup[id(parameter)] = parameter.numel()
            elif parameter.dim() == 2 or (isinstance(module, known) and parameter.dim() > 2):
                inputs = module.in_channels if isinstance(module, conv) else parameter.shape[1]
                matrices[id(parameter)] = (parameter.numel(), int(inputs))
    return lookup, matrices
