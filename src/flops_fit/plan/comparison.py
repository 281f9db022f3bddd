"""The same budgets by each design: how many runs, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flops_fit.errors import FlopsFitError, InputError
from flops_fit.plan.cost import CostEstimate, Device, estimate, money
from flops_fit.plan.designs import Prior, grid_sizes, make_layout, resolve_prior
from flops_fit.plan.experiments import ExperimentFactory, make_experiments, with_trunks
from flops_fit.plan.timing import Speed
from flops_fit.recipes.resolve import resolve_recipe
from flops_fit.records import Experiment
from flops_fit.text import format_duration, render

if TYPE_CHECKING:
    from rich.table import Table


_COLUMNS = ("design", "runs", "FLOPs", "of this plan", "time")


@dataclass(frozen=True)
class DesignCost:
    """One design: its runs and their cost, or why it cannot be planned.

    Attributes
    ----------
    design
        Its name, with ``" + branch"`` where runs of one size share a trunk.
    experiments, cost
        Its runs, and what they cost; none where it cannot be planned.
    notes
        How many sizes were left out, other hyper-parameters that it needs, or why it cannot be planned.
    """

    design: str
    experiments: tuple[Experiment, ...]
    cost: CostEstimate | None
    notes: str = ""


@dataclass(frozen=True)
class DesignCosts:
    """What each design costs, this plan first; prints as a table."""

    designs: tuple[DesignCost, ...]

    def __getitem__(self, design: str) -> DesignCost:
        """The design of that name."""
        for found in self.designs:
            if found.design == design:
                return found
        known = [found.design for found in self.designs]
        raise InputError(f"design: expected one of {known}; got {design!r}.")

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(title="The same budgets by each design", title_justify="left")
        own = self.designs[0].cost
        paid = own is not None and own.dollars is not None
        for name in (*_COLUMNS, *(("cost",) if paid else ())):
            table.add_column(name, justify="left" if name == "design" else "right", no_wrap=True)
        for i, row in enumerate(self.designs):
            if row.cost is None or own is None:
                table.add_row(row.design, *("–" for _ in table.columns[1:]))
                continue
            wall = row.cost.wall_seconds
            cells = [
                row.design,
                str(len(row.experiments)),
                f"{row.cost.flops:.3g}",
                f"{100 * row.cost.flops / own.flops:.0f} %",
                "–" if wall is None else format_duration(wall),
            ]
            if row.cost.dollars is not None:
                cells.append(money(row.cost.dollars))
            table.add_row(*cells)
            if i == 0:
                table.add_section()
        return table

    def __str__(self) -> str:
        lines = [f"{row.design}: {row.notes}" for row in self.designs if row.notes]
        basis = [] if self.designs[0].cost is None else [self.designs[0].cost.basis]
        return "\n".join([render(self), *lines, *basis])


def compare_designs(
    experiments: Sequence[Experiment],
    maker: ExperimentFactory | None,
    speed: Speed | None,
    prior: Prior | None,
    place: Device,
    own: str,
) -> DesignCosts:
    """See :meth:`SweepPlan.compare_designs`."""
    if maker is None or maker.spec.size_param is None:
        why = "was read from a file" if maker is None else "has a model without a size parameter"
        raise InputError(
            f"compare_designs: expected a plan of plan_sweep with model_size_param; this one {why}."
        )
    around = resolve_prior(None) if prior is None else prior
    branched = any(e.trunk for e in experiments)
    label = f"this plan ({own}{' + branch' if branched else ''})"
    rows = [DesignCost(label, tuple(experiments), estimate(experiments, speed, place))]
    budgets = sorted({e.budget for e in experiments})
    repeats = 1 + max(e.repeat for e in experiments)
    alone = replace(maker, branch=False)
    for design in ("grid", "tapered", "rectangular", "rectangular + branch"):
        try:
            made, notes = _made(alone, design, around, budgets, repeats)
        except FlopsFitError as error:
            rows.append(DesignCost(design, (), None, str(error)))
        else:
            rows.append(DesignCost(design, made, estimate(made, speed, place), notes))
    return DesignCosts(tuple(rows))


def _made(
    maker: ExperimentFactory, design: str, prior: Prior, budgets: Sequence[float], repeats: int
) -> tuple[tuple[Experiment, ...], str]:
    layout = make_layout(design.split(" ")[0], prior, None, None, budgets)
    sizes, lost = grid_sizes(layout, maker.spec, budgets, maker.flops())
    made, dropped = make_experiments(maker, sizes, repeats)
    notes = [f"{len(lost) + len(dropped)} sizes left out"] if lost or dropped else []
    if not design.endswith("branch"):
        return tuple(made), "; ".join(notes)
    branching = replace(maker, branch=True)
    try:
        made = with_trunks(make_experiments(branching, sizes, repeats)[0])
    except InputError:
        # The hyper-parameters depend on a run's length. Costs hardly depend on them, so those of
        # the shortest run serve for all.
        short = min(made, key=lambda e: e.tokens)
        hparams = {
            **{k: v for k, v in short.hparams.to_dict().items() if k != "recipe"},
            "schedule": "wsd",
            "batch_units": max(1, round(short.batch_size * short.units_per_sample)),
            "warmup_units": max(1, round(0.1 * short.tokens)),
        }
        branching = replace(branching, recipe=resolve_recipe(hparams))
        made, dropped = make_experiments(branching, sizes, repeats)
        made = with_trunks(made)
        notes = [f"{len(lost) + len(dropped)} sizes left out"] if lost or dropped else []
        notes.append("with schedule='wsd', and batch and warmup of the shortest run for all")
    return tuple(made), "; ".join(notes)
