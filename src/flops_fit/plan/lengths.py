"""What batches hold where samples differ, or where FLOPs do not add up: units, and what FLOPs depend on."""

import itertools
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from flops_fit import rng
from flops_fit.batches import batch_length, map_tensors, tensors_of
from flops_fit.data import reading
from flops_fit.data.spec import DataSpec
from flops_fit.flops.functions import Floats
from flops_fit.objective import Objective
from flops_fit.plan.findings import in_words
from flops_fit.records import Diagnostic

_FIRST = 32  # samples that are looked at to see whether they differ
_LOOKED_AT = 512  # where they do
_MOST_LOOKED_AT = 8_192  # where a collation may pad the first that differs
_SECONDS = 1.0  # for which one is looked for
MOST_READ = 16_384  # samples of a run that are read for its units and lengths
_MOST_EPOCHS = 16  # of a small data set, in which little differs from one to the next
_MOST_UNPADDED = 4_096  # of these, of which each is measured by itself
_GROUP = 4  # samples of a batch that FLOPs are counted on
_MOST_AXES = 2  # lengths that FLOPs are a quadratic function of; with more, of all numbers
_NOMINAL = 32  # samples of a batch where nothing is planned yet


# A batch, its samples, the lengths that padding leaves to them, and those of their own.
Example = tuple[Any, int, tuple[float, ...], tuple[float, ...]]


@dataclass
class Lengths:
    """Reads batches as runs will, for their units and FLOPs.

    ``varying`` are the dimensions (tensor, axis) that differ between samples, with those ``packed`` that grow
    with their number; more than two count as one, of all numbers in a sample. ``each`` are the units of every
    sample, ``None`` where they or lengths differ. ``unpadded``: FLOPs follow the samples' own lengths too, as
    where a model packs them; batches of short and long samples, ``mixed``, show it. ``group`` are the samples
    of the first example.
    """

    data: DataSpec | None
    objective: Objective
    each: float | None = None
    varying: tuple[tuple[int, int], ...] = ()
    packed: frozenset[tuple[int, int]] = frozenset()
    adds_up: bool = True
    unpadded: bool = False
    examples: list[Example] = field(default_factory=list)
    mixed: list[Example] = field(default_factory=list)
    group: list[Any] = field(default_factory=list)
    nominal: int = _NOMINAL
    findings: tuple[Diagnostic, ...] = ()
    _read: dict[tuple[int, int, int], tuple[float, Floats]] = field(default_factory=dict)

    def measure(self, batch: Any, samples: int) -> tuple[float, ...]:
        """The lengths that padding and packing leave to each of the samples of a batch."""
        tensors = tensors_of(batch)
        if len(self.varying) > _MOST_AXES:
            return (sum(t.numel() for t in tensors) / samples,)
        shared = [samples if dimension in self.packed else 1 for dimension in self.varying]
        sizes = [tensors[tensor].shape[axis] for tensor, axis in self.varying]
        return tuple(n / among for n, among in zip(sizes, shared, strict=True))

    def own(self, samples: Sequence[Any]) -> tuple[float, ...]:
        """Lengths of the samples before they are padded, and their products, in the mean."""
        each = [self.measure(_collated(self.data, [s]), 1) for s in samples] if self.data else []
        return tuple(
            np.mean([[*lengths, *_products(lengths)] for lengths in each], axis=0).tolist()
        )

    def row(
        self, samples: int, lengths: tuple[float, ...], own: tuple[float, ...] = ()
    ) -> list[float]:
        """What FLOPs per sample are linear in: a quadratic polynomial of the lengths, and a/B + c·B."""
        beyond = [] if self.adds_up else [1 / samples, float(samples)]
        return [1.0, *lengths, *_products(lengths), *beyond, *(own if self.unpadded else ())]

    def typical(self) -> tuple[float, Floats]:
        """Units of a sample, and the row of its FLOPs, in the mean over all data, ``nominal`` a batch."""
        size = self.data.size if self.data is not None else None
        samples = min(MOST_READ, _MOST_EPOCHS * (size or MOST_READ))
        return self.of_run(self.nominal, math.ceil(samples / self.nominal), 0)

    def of_run(self, batch_size: int, steps: int, seed: int) -> tuple[float, Floats]:
        """Units of a sample, and the row of its FLOPs, in the mean over the batches of a run.

        Of a run of more than 16,384 samples they are spread over it, or are those of its first epochs.
        """
        if self.each is not None or self.data is None:
            return self.each or math.nan, np.array(self.row(batch_size, ()))
        streams = self.data.indices is None
        key = batch_size, steps, 0 if streams else seed
        if key not in self._read:
            data = replace(self.data, collate=self._kept)  # a stream notes what it has read
            count = min(steps, math.ceil(MOST_READ / batch_size))
            epochs = MOST_READ // (data.size or MOST_READ + 1)
            whole = streams or count == steps or epochs > 0
            if count < steps and epochs:
                count = math.ceil(epochs * (data.size or 0) / batch_size)
            units, rows = 0.0, []
            own: list[tuple[float, ...]] = []
            for start in [0] if whole else [i * steps // count for i in range(count)]:
                with closing(data.batches(batch_size, count if whole else 1, seed, start)) as read:
                    for samples, batch in read:
                        units += (some := float(self.objective.count(batch)))
                        if self.unpadded and len(own) * batch_size < _MOST_UNPADDED:
                            own.append(self.own(samples))
                        row = self.row(batch_size, self.measure(batch, batch_size))
                        rows.append(np.array(row) * (some > 0))  # or training leaves the batch out
            means = [np.mean(part, axis=0) for part in (rows, own) if part]
            self._read[key] = units / (batch_size * len(rows)), np.concatenate(means)
        return self._read[key]

    def _kept(self, samples: list[Any]) -> tuple[list[Any], Any]:
        return samples, self.data.collate(samples) if self.data is not None else None

    def repeated(self) -> list[Example]:
        """Batches that hold the first example two, four and eight times; none where it cannot be repeated."""
        batch, samples, lengths, own = self.examples[0]
        if self.data is not None:
            more = ((n, _collated(self.data, self.group * n)) for n in (2, 4, 8))
            return [(many, n * samples, lengths, own) for n, many in more]
        if any(t.dim() and len(t) != samples for t in tensors_of(batch)):
            return []

        def repeat(tensor: Any, n: int) -> Any:
            return tensor.repeat(n, *[1] * (tensor.dim() - 1)) if tensor.dim() else tensor

        many = ((n, map_tensors(batch, partial(repeat, n=n))) for n in (2, 4, 8))
        return [(more, n * samples, lengths, own) for n, more in many]


def look_at(data: DataSpec, objective: Objective, batch_size: int | str) -> Lengths | None:
    """What differs between samples drawn over the whole data set; ``None`` where nothing does."""
    nominal = batch_size if isinstance(batch_size, int) else _NOMINAL
    nominal = min(nominal, data.size or nominal)
    samples = data.spread(_FIRST)
    try:
        seen = _each(data, objective, samples)
        part = objective.count(_collated(data, samples[:_GROUP]))
        looked_at = _LOOKED_AT
        if all(s == seen[0] for s in seen) and int(part) == seen[0][1] * len(samples[:_GROUP]):
            looked_at = _rarely_other(data, objective, seen[0])
            if not looked_at:
                return None
        samples = data.spread(max(looked_at, _LOOKED_AT))
        seen = _each(data, objective, samples)
    except Exception:  # a collation may refuse a single sample; training reports what it raises
        return None
    shapes, units = [s for s, _ in seen], [count for _, count in seen]
    different: dict[tuple[int, ...], tuple[int, int]] = {}
    if len({tuple(map(len, s)) for s in shapes}) == 1:
        for tensor, shape in enumerate(shapes[0]):
            for axis in range(len(shape)):
                lengths = tuple(s[tensor][axis] for s in shapes)
                if len(set(lengths)) > 1:
                    different.setdefault(lengths, (tensor, axis))
    some = tensors_of(_collated(data, samples[:_GROUP]))
    packed = [d for n, d in different.items() if some[d[0]].shape[d[1]] == sum(n[:_GROUP])]
    span = f"{min(units):.4g} to {max(units):.4g} units, {np.mean(units):.4g} in the mean of {len(units)}"
    held = span if len(set(units)) > 1 else f"{min(units):.4g} unit{'s' * (min(units) != 1)} each"
    finding = in_words("lengths", held=held, read=MOST_READ)
    out = Lengths(data, objective, None, tuple(different.values()), frozenset(packed))
    out.nominal, out.findings = nominal, (finding,)
    order = sorted(range(len(samples)), key=lambda i: sum(math.prod(s) for s in shapes[i]))
    axes = 1 if len(different) > _MOST_AXES else len(different)
    count = len(out.row(1, (1.0,) * axes)) + 1 if different else 1
    starts = np.linspace(0, max(len(order) - _GROUP, 0), count).astype(int).tolist()
    neighbours = [order[start : start + _GROUP] for start in [starts.pop(count // 2), *starts]]
    draws = np.random.default_rng(0).permuted(np.tile(order, (count, 1)), axis=1)
    apart = [[*order[:2], *order[-2:]], *draws[:, :_GROUP].tolist()]
    for groups, examples in ((neighbours, out.examples), (apart if different else [], out.mixed)):
        for places in groups:
            group = [samples[i] for i in places]
            batch, many = _collated(data, group), len(group)
            out.group = out.group or group
            examples.append((batch, many, out.measure(batch, many), out.own(group)))
    return out


def _rarely_other(data: DataSpec, objective: Objective, first: Any) -> int:
    """Among how many samples one differs from the first; 0 for none, or where none could be collated."""
    count, started = _FIRST, time.perf_counter()
    most = (
        0 if data.collate is reading.collate else min(data.size or _MOST_LOOKED_AT, _MOST_LOOKED_AT)
    )
    while count < most and 4 * (time.perf_counter() - started) < _SECONDS:
        before, count = count, 4 * count  # a stream is read from its beginning each time
        if any(each != first for each in _each(data, objective, data.spread(count)[before:])):
            return count
    return 0


def uniform(data: DataSpec | None, objective: Objective, batch: Any, each: float) -> Lengths:
    """Samples that all have the shapes and the units of those in a batch."""
    group = [] if data is None else data.spread(_GROUP)
    samples = len(group) or batch_length(batch)
    return Lengths(data, objective, each, examples=[(batch, samples, (), ())], group=group)


def _products(lengths: tuple[float, ...]) -> list[float]:
    return [a * b for a, b in itertools.combinations_with_replacement(lengths, 2)]


def _each(
    data: DataSpec, objective: Objective, samples: Sequence[Any]
) -> list[tuple[list[tuple[int, ...]], float]]:
    """The shapes of the tensors of each sample, as a batch of its own, and its units."""
    batches = [_collated(data, [sample], seed) for seed, sample in enumerate(samples)]
    return [([tuple(t.shape) for t in tensors_of(b)], float(objective.count(b))) for b in batches]


def _collated(data: DataSpec, samples: list[Any], seed: int = 0) -> Any:
    with rng.kept():
        rng.seed(seed)
        return data.collate(samples)
