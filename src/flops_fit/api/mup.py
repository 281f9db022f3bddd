"""A plan in the maximal-update parametrization: its base, its roles, its check of the widths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flops_fit.api.width_check import SEEDS, STEPS, WidthCheck, count_widths
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.mup.coordinate_check import check_coordinates
from flops_fit.mup.parametrization import Mup, Parametrization, parametrize
from flops_fit.objective import Objective
from flops_fit.plan.planner import at_base
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.records import Diagnostic
from flops_fit.text import error_line
from flops_fit.train.step import whole_batch_step
from flops_fit.train.trainer import Trainer

_SAMPLES = 8


def scale_rates(plan: SweepPlan, mup: Mup) -> SweepPlan:
    """The plan at the base's learning rate: what ``mup`` scales from there is in the ids."""
    base = _base(plan, mup)
    return at_base(plan, base, mup.fingerprint(base))


def in_mup(
    plan: SweepPlan, mup: Mup, spec: ModelSpec, objective: Objective, batch: Any
) -> tuple[SweepPlan, Parametrization]:
    """The plan in μP, with what was found of the model, and the parametrization."""
    sizes = [e.size for e in plan.experiments]
    roles = parametrize(spec, objective, batch, sizes, replace(mup, base=_base(plan, mup)))
    message = f"{roles} Every size has the learning rate that the recipe has for the base."
    found = [Diagnostic("parametrization", "note", message)]
    found += [Diagnostic("parametrization_limits", "warning", note) for note in roles.notes]
    plan = scale_rates(plan, mup)
    return replace(plan, diagnostics=(*plan.diagnostics, *found)), roles


def with_check(plan: SweepPlan, trainer: Trainer, mup: Mup) -> SweepPlan:
    """The plan with the verdict of a coordinate check on the data, which takes some seconds."""
    roles, maker = trainer.parametrization, plan.maker
    assert roles is not None
    assert maker is not None
    sizes = {repr(e.size): e.size for e in plan.experiments}.values()

    def cost(size: Size) -> float:
        return maker.counter.per_unit(size) * maker.units_per_sample

    chosen = WidthCheck(trainer.model, _base(plan, mup), list(sizes), cost)
    hparams = min(plan.experiments, key=lambda e: e.flops).hparams
    try:
        found = chosen.affordable(trainer.device, STEPS, SEEDS, _SAMPLES)
        if isinstance(found, str):
            return _told(plan, "note", f"The coordinate check was not made: {found}.")
        if count_widths(trainer.model, roles, found[0]) < len(found[0]):
            why = "the sizes do not differ in width"
            return _told(plan, "note", f"The coordinate check was not made: {why}.")
        check = check_coordinates(
            trainer.model,
            trainer.data.first_batch(found[1]),
            trainer.objective,
            found[0],
            roles,
            lambda model: whole_batch_step(
                model,
                trainer.objective,
                hparams,
                found[1],
                trainer.device,
                trainer.config.optimizer,
                roles,
            ),
            lr=hparams.lr,
            scaled=True,
            steps=STEPS,
            seeds=SEEDS,
            device=trainer.device,
        )
    except Exception as error:  # the user's model may refuse a width in any way
        return _told(plan, "note", f"The coordinate check could not be made: {error_line(error)}.")
    plan = replace(plan, coordinates=check)
    message = f"Coordinate check at the rate {check.lr:.3g}: {check.reason}"
    if check.verdict == "failed":
        start = (
            ""
            if roles.init
            else "Mup(init=True) where the output layer does not begin at zero, or "
        )
        return _told(plan, "warning", message, f'{start}tune="per-size"')
    return _told(plan, "note", message)


def _base(plan: SweepPlan, mup: Mup) -> Size:
    if mup.base is not None:
        return mup.base
    smallest: Size = min(plan.experiments, key=lambda e: e.params.total).size
    return smallest


def _told(plan: SweepPlan, severity: Any, message: str, action: str = "") -> SweepPlan:
    found = Diagnostic("coordinates", severity, message, action)
    return replace(plan, diagnostics=(*plan.diagnostics, found))
