"""Muon for the matrices inside a model, beside AdamW for all else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from flops_fit.errors import InputError
from flops_fit.hparams import HParams
from flops_fit.lazy import nn, torch
from flops_fit.train.optimizer import Groups, decay_groups, decayed_and_rest


def muon_groups(model: nn.Module, hparams: HParams, adamw: Sequence[str] = ()) -> Groups:
    """The ``param_groups`` that :func:`muon` trains: hidden matrices are marked with ``"muon": True``.

    Hidden are the matrices that decay, but for the output layer: the last ``nn.Linear`` of the model. Where
    that is another, ``functools.partial(muon_groups, adamw=["head"])`` names the layers that keep AdamW.
    InputError where no parameter has such a name.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    if adamw:
        prefixes = tuple(f"{name}." for name in adamw)
        kept = {key for key, name in names.items() if f"{name}.".startswith(prefixes)}
        if not kept:
            raise InputError(
                f"adamw: expected names of layers such as {sorted(names.values())[0]!r}; got {list(adamw)}."
            )
    else:
        linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
        kept = {id(p) for p in linear[-1].parameters()} if linear else set()
    hidden = {id(p) for p in decayed_and_rest(model)[0] if p.dim() == 2} - kept
    out: Groups = []
    for group in decay_groups(model, hparams):
        for own in (True, False):
            if part := [p for p in group["params"] if (id(p) in hidden) is own]:
                out.append({**group, "params": part, "muon": own})
    return out


def muon(param_groups: Groups, hparams: HParams) -> torch.optim.Optimizer:
    """The optimizer of ``TrainingConfig(optimizer=muon, param_groups=muon_groups)``.

    Groups with ``"muon": True`` are trained by ``torch.optim.Muon`` (Jordan et al. 2024; momentum .95,
    Nesterov), its steps scaled to the root mean square of AdamW's by .2·√max(rows, columns) (Liu et al.
    2025, arXiv:2502.16982, §2.2); the others by AdamW. So they found that rates and decays of AdamW serve;
    small models over bytes want a rate of their own, .4 to 5 times AdamW's (``benchmarks.hparams --only
    muon``). The FLOPs of the steps themselves, as those of any optimizer, are not in C. InputError where no
    group is marked, or a marked one holds what is no matrix.
    """
    if not hasattr(torch.optim, "Muon"):
        raise InputError(f"optimizer: muon expects torch 2.9 or later; got {torch.__version__}.")
    marked = [p for group in param_groups if group.get("muon") for p in group["params"]]
    if not marked or any(p.dim() != 2 for p in marked):
        raise InputError(
            "optimizer: muon expects groups with 'muon': True that hold matrices; got "
            f"{[tuple(p.shape) for p in marked][:3] or 'none'}. Give param_groups=muon_groups as well."
        )
    return _kind()(param_groups, hparams)  # type: ignore[no-any-return]  # its class is made when asked for


@cache
def _kind() -> Any:
    """Made when it is first asked for, as its base needs torch."""

    class MuonAdamW(torch.optim.Optimizer):
        def __init__(self, groups: Groups, hparams: HParams) -> None:
            rate, decay = float(hparams.lr), float(hparams.weight_decay)
            super().__init__(
                [{"muon": False, **g} for g in groups], {"lr": rate, "weight_decay": decay}
            )
            betas = (float(hparams.beta1), float(hparams.beta2))
            self.parts: dict[bool, torch.optim.Optimizer] = {}
            for own in {bool(group["muon"]) for group in self.param_groups}:
                chosen = self._chosen(own)
                self.parts[own] = (
                    torch.optim.Muon(chosen, lr=rate, adjust_lr_fn="match_rms_adamw")
                    if own
                    else torch.optim.AdamW(chosen, lr=rate, betas=betas)
                )

        def _chosen(self, own: bool) -> Groups:
            return [group for group in self.param_groups if bool(group["muon"]) is own]

        @torch.no_grad()
        def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure
            for own, part in self.parts.items():
                # Loading a checkpoint replaces both.
                part.state, part.param_groups = self.state, self._chosen(own)
                part.step()

    return MuonAdamW
