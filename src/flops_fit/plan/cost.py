"""What runs cost before they are made: FLOPs, time and money, here or by the data sheet of a device."""

import heapq
import math
import re
import tomllib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.errors import InputError, check_choice, check_number, check_whole
from flops_fit.plan.findings import in_words
from flops_fit.plan.timing import Speed
from flops_fit.records import Experiment, by_trunk, finite_json, own_flops
from flops_fit.text import format_duration, render, sentence, values_table

# An assumption, not a measurement: large transformers reach 0.3 to 0.5, small models far less.
ASSUMED_MFU = 0.3
_PROCESS_SECONDS = 0.2  # to fork a worker and to end it, measured on two cores
_POOL_SECONDS = 2.5  # before the first of them: a server process imports torch


@dataclass(frozen=True)
class Peak:
    """FLOP/s of a device for dense matrix products, from its vendor's data sheet, in 1e12 by format.

    ``None`` if it has none, or is not known. NVIDIA's data sheets from Ampere on show rates for sparse
    matrices, twice those listed here. Rates are those with sums in 32 bits, as in torch: half of the others
    for 16-bit numbers on GeForce cards. A name has to match as a whole: laptop, cut-down and partitioned
    (MIG) devices are slower.
    """

    fp32: float | None = None
    tf32: float | None = None
    bf16: float | None = None
    short: str = ""  # a name for people


_TABLE = tomllib.loads(Path(__file__).with_name("peaks.toml").read_text(encoding="utf-8"))
PEAKS = {pattern: Peak(**rates) for pattern, rates in _TABLE.items()}
_MAKERS = re.compile(r"^(NVIDIA |Tesla |AMD )+")
_BY_SHORT = {peak.short.lower(): peak for peak in PEAKS.values() if peak.short}
DEVICES = tuple(peak.short for peak in PEAKS.values() if peak.short)


def find_peak(name: str) -> Peak | None:
    """The peak of a device by its short name in any case, or by the whole one that its driver gives."""
    plain = _MAKERS.sub("", name.strip())
    whole = (peak for pattern, peak in PEAKS.items() if re.fullmatch(pattern, plain))
    return _BY_SHORT.get(plain.lower()) or next(whole, None)


@dataclass(frozen=True)
class Device:
    """Where a plan would run; the arguments of :meth:`SweepPlan.estimate`."""

    device: str | None = None
    dollars_per_hour: float | None = None
    parallel: int = 1
    mfu: float | None = None

    def __post_init__(self) -> None:
        for name in ("dollars_per_hour", "mfu"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, above=0, expected="a positive number, or None")
        check_whole("parallel", self.parallel, expected="the number of runs at a time, 1 or more")
        if self.mfu is None:
            return
        if self.mfu > 1:
            raise InputError(f"mfu: expected a share of the peak, such as 0.4; got {self.mfu!r}.")
        if self.device is None:
            raise InputError(
                "mfu: expected with a device whose peak is known, as device='H100'; here the speed is "
                "measured. Leave mfu out, or name a device."
            )


@dataclass(frozen=True)
class RunCost:
    """The cost of one run without what a shorter run of its trunk has trained; ``None`` is unknown."""

    id: str
    label: str
    flops: float
    seconds: float | None
    dollars: float | None


@dataclass(frozen=True)
class CostEstimate:
    """What a plan costs; prints as a table.

    ``runs`` are in the order of the plan; ``basis`` says where times come from, with every assumption, or
    why there are none. ``wall_seconds`` last from the start to the end of the sweep, ``parallel`` runs at
    a time. ``dollars_per_hour`` pay all that the sweep occupies, ``dollars`` its wall time; what is not
    known is ``None``.
    """

    runs: tuple[RunCost, ...]
    basis: str
    parallel: int = 1
    wall_seconds: float | None = None
    dollars_per_hour: float | None = None
    dollars: float | None = None

    @property
    def flops(self) -> float:
        """Training FLOPs of all runs, what they share counted once."""
        return math.fsum(run.flops for run in self.runs)

    @property
    def seconds(self) -> float | None:
        """The sum of all times; ``None`` where no time is known."""
        known = [run.seconds for run in self.runs if run.seconds is not None]
        return math.fsum(known) if len(known) == len(self.runs) else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(finite_json({**vars(self), "flops": self.flops, "seconds": self.seconds}))

    def __rich__(self) -> Any:
        columns = ("run", "FLOPs", "time", *(() if self.dollars is None else ("cost",)))
        table = values_table(self.headline, columns, caption_justify="left")
        rows: list[tuple[str, RunCost | CostEstimate]] = [(run.label, run) for run in self.runs]
        for label, row in [*rows, ("all", self)]:
            if row is self:
                table.add_section()
            time = "–" if row.seconds is None else format_duration(row.seconds)
            paid = [] if row.dollars is None else [money(row.dollars)]
            table.add_row(label, f"{row.flops:.3g}", time, *paid)
        return table

    @property
    def headline(self) -> str:
        """The whole in one line."""
        text = f"{len(self.runs)} runs, {self.flops:.3g} FLOPs"
        if self.wall_seconds is not None:
            how = f"{self.parallel} at a time" if self.parallel > 1 else "one after another"
            text += f", {format_duration(self.wall_seconds)} {how}"
        return text if self.dollars is None else f"{text}, {money(self.dollars)}"

    def __str__(self) -> str:
        return f"{render(self)}\n{self.basis}"


def estimate(experiments: Sequence[Experiment], speed: Speed | None, where: Device) -> CostEstimate:
    """The cost of some experiments; see :meth:`SweepPlan.estimate`."""
    own = own_flops(experiments)
    seconds, basis = run_seconds(experiments, own, speed, where)
    wall = price = None
    if seconds is not None:
        wall = makespan(experiments, seconds, where.parallel)
        if where.device is None and where.parallel > 1 and experiments:
            wall += _POOL_SECONDS
        price = None if where.dollars_per_hour is None else wall / 3600 * where.dollars_per_hour
    times = seconds or {}
    total = math.fsum(times.values()) or 1.0
    paid = {} if price is None else {run: price * time / total for run, time in times.items()}
    runs = [RunCost(e.id, e.label, own[e.id], times.get(e.id), paid.get(e.id)) for e in experiments]
    return CostEstimate(tuple(runs), basis, where.parallel, wall, where.dollars_per_hour, price)


def run_seconds(
    experiments: Sequence[Experiment], own: Mapping[str, float], speed: Speed | None, where: Device
) -> tuple[dict[str, float] | None, str]:
    """The time of each run by id, and where it comes from."""
    if where.device is not None:
        peak = find_peak(where.device) if isinstance(where.device, str) else None
        if peak is None:
            raise InputError(
                f"device: expected None for the one that was measured, or one of {list(DEVICES)}; "
                f"got {where.device!r}."
            )
        numbers, rate = ("bf16", peak.bf16) if peak.bf16 is not None else ("fp32", peak.fp32)
        assert rate is not None
        share = ASSUMED_MFU if where.mfu is None else where.mfu
        how = "an assumed" if where.mfu is None else "a given"
        said = {"how": how, "share": 100 * share, "rate": rate, "numbers": numbers}
        times = {e.id: own[e.id] / (share * rate * 1e12) for e in experiments}
        return times, sentence(in_words("times_by_peak", device=where.device, **said).message)
    if speed is None:
        return None, sentence(in_words("no_times").message)
    many = where.parallel
    basis = f"Times from steps measured on {speed.device}, with start and evaluation of each run"
    if many > 1 and speed.threads > 1 and speed.alone:
        basis += f", on {max(1, speed.threads // many)} of {speed.threads} threads each"
    process = _PROCESS_SECONDS if many > 1 else 0.0
    times = {e.id: process + speed.seconds(e, own[e.id], parallel=many) for e in experiments}
    return times, basis + "."


def makespan(
    experiments: Sequence[Experiment], seconds: Mapping[str, float], parallel: int
) -> float:
    """Time until the last run ends in ``parallel`` slots: expensive trunks first, their runs in turn."""
    own = own_flops(experiments)
    chains = [deque(group) for group in by_trunk(experiments)]
    chains.sort(key=lambda chain: sum(own[e.id] for e in chain), reverse=True)
    queue = deque(chains)
    running: list[tuple[float, int, deque[Experiment]]] = []
    now, order = 0.0, 0
    while queue or running:
        while queue and len(running) < parallel:
            chain = queue.popleft()
            heapq.heappush(running, (now + seconds[chain.popleft().id], order, chain))
            order += 1
        now, _, chain = heapq.heappop(running)
        if chain:
            queue.append(chain)
    return now


def money(dollars: float) -> str:
    """An amount: cents below a hundred dollars, whole dollars from there on."""
    if 0 < dollars < 0.01:
        return "< $0.01"
    return f"${dollars:.2f}" if dollars < 100 else f"${dollars:,.0f}"


class Priced:
    """What holds experiments that can be priced before they run."""

    def _to_price(self) -> tuple[Sequence[Experiment], Speed | None]:
        """What is priced, at which measured speed."""
        raise NotImplementedError

    def estimate(
        self,
        device: str | None = None,
        dollars_per_hour: float | None = None,
        parallel: int = 1,
        mfu: float | None = None,
    ) -> CostEstimate:
        """FLOPs, time and money of each run to be made, and of all; InputError for what cannot be used.

        ``device`` is ``None`` for the one that the speed was measured on; for another by name, such as
        ``"H100"``, times are C/(``mfu`` · peak), with the peak of its data sheet, ``mfu`` 0.3. Dollars pay
        all devices and machines that ``parallel`` runs at a time need, as the executor's ``capacity`` says.
        """
        return estimate(*self._to_price(), Device(device, dollars_per_hour, parallel, mfu))


@dataclass(frozen=True)
class DesignCost:
    """One design, ``" + branch"`` where runs share a trunk: its runs and cost, or why it has none."""

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
        known = {row.design: row for row in self.designs}
        check_choice("design", design, known)
        return known[design]

    def __rich__(self) -> Any:
        own = self.designs[0].cost
        paid = own is not None and own.dollars is not None
        columns = ("design", "runs", "FLOPs", "of this plan", "time", *(("cost",) if paid else ()))
        table = values_table("The same budgets by each design", columns)
        for row in self.designs:
            cost = row.cost
            if cost is None or own is None:
                table.add_row(row.design, *("–" for _ in table.columns[1:]))
                continue
            table.add_row(
                row.design,
                str(len(row.experiments)),
                f"{cost.flops:.3g}",
                f"{100 * cost.flops / own.flops:.0f} %",
                "–" if cost.wall_seconds is None else format_duration(cost.wall_seconds),
                *([] if cost.dollars is None else [money(cost.dollars)]),
                end_section=row is self.designs[0],
            )
        return table

    def __str__(self) -> str:
        lines = [f"{row.design}: {row.notes}" for row in self.designs if row.notes]
        basis = [] if self.designs[0].cost is None else [self.designs[0].cost.basis]
        return "\n".join([render(self), *lines, *basis])
