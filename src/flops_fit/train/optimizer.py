"""The optimizer of a run: which parameters decay, at what rate each group learns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flops_fit.errors import FlopsFitError, InputError, InputTypeError, check_number
from flops_fit.hparams import HParams
from flops_fit.lazy import nn, torch
from flops_fit.mup.parametrization import Parametrization

Groups = list[dict[str, Any]]
ParamGroups = Callable[[Any, HParams], Iterable[Mapping[str, Any]]]
MakeOptimizer = Callable[[Groups, HParams], Any]

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


def make_optimizer(
    model: nn.Module,
    hparams: HParams,
    optimizer: MakeOptimizer | type[torch.optim.Optimizer] | None = None,
    param_groups: ParamGroups | None = None,
    parametrization: Parametrization | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of one run, by default AdamW; each ``lr``/``hparams.lr`` is kept as ``lr_scale``."""
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    if not names:
        raise InputError(
            "model: expected at least one parameter that requires a gradient; got none."
        )
    known = {id(p) for p in model.parameters()}
    chosen: Any = (param_groups or decay_groups)(model, hparams)
    if parametrization is not None:
        chosen = parametrization.scale(model, chosen)
    groups = _with_rates(chosen, hparams)
    _check_cover(groups, names, known, "param_groups")

    make: Any = optimizer
    if make is None:
        trained = [p for group in groups for p in _tensors(group)]
        fused = all(p.is_floating_point() and p.device.type in _FUSED_DEVICES for p in trained)
        own: Any = _from_class(torch.optim.AdamW, groups, hparams, fused=fused)
    elif isinstance(make, type) and issubclass(make, torch.optim.Optimizer):
        own = _from_class(make, groups, hparams)
    else:
        own = make(groups, hparams) if callable(make) else make
    if not isinstance(own, torch.optim.Optimizer) or own is make:
        kind = type(own).__name__
        what = f"an existing {kind}" if isinstance(own, torch.optim.Optimizer) else kind
        raise InputTypeError(
            "optimizer: expected a torch.optim.Optimizer class, or a function (param_groups, hparams) "
            f"-> Optimizer, as each run has a model of its own; got {what}."
        )
    _check_cover(own.param_groups, names, known, "optimizer")
    for number, group in enumerate(own.param_groups):
        peak = _positive(group.get("lr"), f"optimizer: group {number}: lr")
        group["lr_scale"] = peak / hparams.lr
    return own


def try_optimizer(model: nn.Module, hparams: HParams, *own: Any) -> None:
    """Find out before a sweep whether its runs can step, by one step along zero gradients.

    ``own`` are the other arguments of :func:`make_optimizer`.
    """
    try:
        stepped = make_optimizer(model, hparams, *own)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        stepped.step()
    except FlopsFitError:
        raise
    except Exception as error:  # the user's code, or an optimizer that calls the loss itself
        raise InputError(
            "optimizer: expected one that steps along given gradients, without a closure; "
            f"on the smallest model it raised {type(error).__name__}: {error}."
        ) from error


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group ``rate`` times its own ``lr_scale``; rates that are tensors change in place."""
    for group in optimizer.param_groups:
        scaled = rate * group.get("lr_scale", 1.0)
        if hasattr(group["lr"], "fill_"):
            group["lr"].fill_(scaled)
        else:
            group["lr"] = scaled


def decay_groups(model: nn.Module, hparams: HParams) -> Groups:
    """Two groups: parameters that decay; norms, biases, scalars and nn.Embedding's, which do not."""
    decays = zip(decayed_and_rest(model), (float(hparams.weight_decay), 0.0), strict=True)
    return [{"params": params, "weight_decay": decay} for params, decay in decays if params]


def decayed_and_rest(model: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The trained parameters of the two groups."""
    tables = (nn.Embedding, nn.EmbeddingBag)
    norms = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    layers = (m for m in model.modules() if isinstance(m, (*tables, *norms)))
    exempt = {id(p) for layer in layers for p in layer.parameters(recurse=False)}
    decayed: list[torch.Tensor] = []
    rest: list[torch.Tensor] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            spared = p.dim() < 2 or id(p) in exempt or "bias" in name.rpartition(".")[2]
            (rest if spared else decayed).append(p)
    return decayed, rest


def _from_class(kind: Any, groups: Groups, hparams: HParams, **options: Any) -> Any:
    options["lr"] = float(hparams.lr)
    if "betas" in inspect.signature(kind).parameters:
        options["betas"] = (float(hparams.beta1), float(hparams.beta2))
    try:
        optimizer = kind(groups, **options)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"optimizer: {kind.__name__} cannot be made from these groups with {sorted(options)}: "
            f"{error} Give a function (param_groups, hparams) -> Optimizer instead."
        ) from error
    if "weight_decay" not in optimizer.defaults and any(g["weight_decay"] for g in groups):
        raise InputError(
            f"optimizer: {kind.__name__} has no weight decay, and hparams ask for weight_decay="
            f"{hparams.weight_decay!r}. Set it to 0, or give a function (param_groups, hparams) -> "
            "Optimizer that decays the weights itself."
        )
    return optimizer


def _with_rates(groups: Any, hparams: HParams) -> Groups:
    """The user's groups as lists, each with its peak rate and its weight decay."""
    if isinstance(groups, Mapping | str) or not isinstance(groups, Iterable):
        raise InputTypeError(
            f"param_groups: expected a list of dicts with 'params'; got {type(groups).__name__}."
        )
    out = []
    for number, group in enumerate(groups):
        where = f"param_groups: group {number}"
        if not (isinstance(group, Mapping) and "params" in group):
            raise InputTypeError(f"{where}: expected a dict with 'params'; got {group!r:.80}.")
        if "lr" in group and "lr_scale" in group:
            raise InputError(f"{where}: expected lr or lr_scale; got both. Leave one out.")
        params = group["params"]
        changed = {k: v for k, v in group.items() if k != "lr_scale"}
        changed["params"] = [params] if hasattr(params, "requires_grad") else list(params)
        scale = _positive(group.get("lr_scale", 1.0), f"{where}: lr_scale")
        changed["lr"] = _positive(group.get("lr", float(hparams.lr) * scale), f"{where}: lr")
        changed.setdefault("weight_decay", float(hparams.weight_decay))
        out.append(changed)
    return out


def _tensors(group: Mapping[str, Any]) -> list[Any]:
    """The parameters of a group; torch allows pairs (name, parameter) too."""
    return [p[1] if isinstance(p, tuple) else p for p in group["params"]]


def _check_cover(
    groups: Iterable[Mapping[str, Any]], names: Mapping[int, str], known: set[int], who: str
) -> None:
    """Refuse groups that do not contain every trained parameter exactly once, and nothing else."""
    seen: set[int] = set()
    for number, p in ((n, p) for n, group in enumerate(groups) for p in _tensors(group)):
        if id(p) not in known:
            what = f"of shape {tuple(p.shape)}" if hasattr(p, "shape") else repr(p)
            raise InputError(
                f"{who}: expected parameters of the model; group {number} holds another one, {what}. "
                "Put it into the model, so that it is counted and saved."
            )
        if id(p) in seen:
            raise InputError(
                f"{who}: expected each parameter in one group; {names.get(id(p), 'a frozen one')!r} "
                "is in two, or twice in one. A tied weight is one parameter."
            )
        seen.add(id(p))
    missing = [name for key, name in names.items() if key not in seen]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise InputError(
            f"{who}: expected every trained parameter in a group; {len(missing)} are in none: "
            f"{shown}. Add them, or set requires_grad=False on what is not to be trained."
        )


def _positive(value: Any, name: str) -> float:
    """A rate as a float, also from a tensor."""
    return check_number(name, value.item() if hasattr(value, "item") else value, above=0)
