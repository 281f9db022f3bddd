"""The numeric columns of a table under our names, N, D and C complete, and what others tell."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import TableError
from flops_fit.table import columns as cols
from flops_fit.table.cells import WORDS, Floats, is_missing, typical
from flops_fit.table.columns import (
    WHOLE_BATCH,
    ColumnMatch,
    Raw,
    find_numbers,
    find_text,
    likeliest,
    wide_hint,
)
from flops_fit.table.headings import rank
from flops_fit.table.mixtures import with_dense

_REQUIRED = ("params", "tokens", "loss")
_PLANNED_OFF = 10.0  # a budget this far off 6·N·D is no compute in FLOPs
_ONE_BUDGET = 2.0  # most of the compute of a budget's runs to the least
_LEAST_PER_TOKEN = 0.5  # FLOPs by 6·N: those of a forward pass alone are a third
_SEVERAL = 1.05  # epochs
_SHOWN = 40  # headings in a message
_SAME_BLOCK = 3.0  # between C/(N·D) of runs that share a cell
_ALIKE, _NEARLY_ALL = 0.01, 0.8  # of the units of a sample, and share of the rows that have them
# From which columns D follows.
_LENGTHS = (
    *("samples seq_len", "step batch_tokens", "step batch_size seq_len", "params ratio"),
    "unique_tokens epochs",
)
_SETTING = re.compile(r"\W*(?:config|cfg|args|hparams|params|user_attrs)[._/]", re.I)
_SPEAKS_OF = {"tokens": "tok|sampl|imag", "flops": "flop|comput"}
_OFF = 1.05  # of D to steps × batch, from which on it is told
_COST_OFF = 2.5  # of C to 6·N·D where D comes from steps: more than attention and embeddings
_MOST_SEQUENCES, _LONG = 2**15, 256  # of one batch, of sequences so long


@dataclass
class Quantities:
    """Columns as numbers, which headings they had, and what was derived or assumed."""

    data: dict[str, Floats]
    matches: dict[str, ColumnMatch]
    notes: list[str]
    others: dict[str, Floats]  # the circumstances of the runs, by our names
    unit: str  # what D counts
    asks_epochs: bool = False  # nothing says whether D counts repeats
    asks_length: bool = False  # D counts samples, and each has a length
    asks_active: bool = False  # nothing says how many parameters of the experts a token meets
    part_of_batch: bool = False  # the batch may be that of one device
    off_steps: tuple[float, str] | None = None  # D over what steps and batches say, and their words


def quantities(raw: Raw, mapping: Mapping[str, str]) -> Quantities:
    """Everything that is known of N, D, C and the loss; TableError where one cannot be known."""
    filled = raw.filled()
    # An optional column without a single value is ignored.
    every = find_numbers(raw, mapping)
    used = {*_REQUIRED, *mapping, *(name for name, m in every.items() if m.column in filled)}
    matches = {name: match for name, match in every.items() if name in used}
    others, told, clashes = {}, {}, []
    for name, match in find_numbers(raw, mapping, cols.CIRCUMSTANCES).items():
        with suppress(TableError):  # a column of text is none of these
            # A rate along the run, not its peak, unless it is a setting.
            logged = name == "lr" and match.distance > 2 and not _SETTING.match(match.column)
            if match.clash:
                clashes.append(f"{list(match.clash)} differ, so none was taken for {name}.")
            elif match.column in filled and not logged:
                others[name], told[name] = raw.numbers(name, match), match.column
    planned = None
    if "budget" in matches:
        try:
            planned = raw.numbers("budget", matches["budget"])
        except TableError:
            del matches["budget"]
    has_compute = "flops" in matches or planned is not None
    with suppress(KeyError, TableError):
        others["params"] = raw.numbers("params", matches["params"])
    with_dense(others)
    with suppress(KeyError, TableError):
        others["unique_tokens"] = raw.numbers("unique_tokens", matches["unique_tokens"])
    clashes += _batch_unit(others, told)
    size = told.get("batch_size", "")
    parts = raw.parallel() if size and not WHOLE_BATCH.search(size.lower()) else []
    from_steps = _tokens_of({n: v for n, v in others.items() if not parts or n != "batch_size"})
    derivable = has_compute or from_steps is not None
    if "tokens" in matches and matches["tokens"].column not in filled and derivable:
        del matches["tokens"]
    needed = [name for name in _REQUIRED if name != "tokens" or not derivable]
    if missing := [name for name in needed if name not in matches]:
        asked = (
            f" {size!r} may be a part of the batch, beside {parts}: add a column tokens, or name "
        )
        asked = f"{asked}it global_batch_size if it is the whole." if parts else ""
        raise _lacks(missing, raw, matches, others, "".join(f" {c}" for c in clashes) or asked)
    data = {name: raw.numbers(name, m) for name, m in matches.items()}
    with np.errstate(all="ignore"):
        filled_down = _filled_down(raw, data, matches)
    planned = None if planned is None else data["budget"]
    units = [f"{m.said(name)}." for name, m in matches.items() if m.factor != 1]
    notes = [*units, *filled_down, *(m.note for m in matches.values() if m.note), *clashes]
    out = Quantities(data, matches, notes, others, _unit(raw, matches), part_of_batch=bool(parts))
    with np.errstate(all="ignore"):
        _complete(out, planned, from_steps)
    by_batch = "tokens" not in matches and from_steps and "batch_size" in from_steps[1]
    if by_batch and not WHOLE_BATCH.search(size.lower()):
        notes.append(f"{size!r} is taken for the whole batch, of all devices.")
    unknown = {"tokens": "D"} if "tokens" not in matches and from_steps is None else {}
    unknown |= {"flops": "C"} if not {"flops", "budget"} & {*matches} else {}
    for name, symbol in unknown.items():
        guess = likeliest(name, raw, {m.column for m in matches.values()})
        if re.search(_SPEAKS_OF[name], guess.lower()) and not any(repr(guess) in n for n in notes):
            notes.append(f"Is {guess!r} {symbol}? Then say so: columns={ {name: guess} }.")
    return out


def _batch_unit(others: dict[str, Floats], told: dict[str, str]) -> list[str]:
    """Take a batch for tokens that has too many sequences, and for sequences that is less than one."""
    name, other, unit = "batch_size", "batch_tokens", "tokens"
    if name not in others:
        name, other, unit = other, name, "sequences"
    if other in others or not {name, "seq_len"} <= others.keys():
        return []
    batch, length = (typical(others[n]) for n in (name, "seq_len"))
    many = batch >= _MOST_SEQUENCES and length >= _LONG
    if not (many if unit == "tokens" else batch < length):
        return []
    others[other], told[other] = others.pop(name), told.pop(name)
    return [f"{told[other]!r} was taken for {unit}, by its values beside the length."]


def _filled_down(
    raw: Raw, data: dict[str, Floats], matches: Mapping[str, ColumnMatch]
) -> list[str]:
    """Fill N and C of most rows from the row above, where they stand once a block; and say so."""
    notes, measured = [], np.isfinite(data["loss"])
    for name in ("params", "flops", "budget"):
        empty = np.isnan(data.get(name, np.zeros(1)))
        blocks = not empty[0] and np.sum(~empty) > 1
        if blocks and 2 * np.sum(empty & measured) >= np.sum(measured):
            block = np.maximum.accumulate(np.where(empty, 0, np.arange(len(empty))))
            above = data[name][block]
            ratio = above / (data["params"] * data.get("tokens", np.nan))
            ratio = ratio[measured & (ratio > 0)]
            ends = np.quantile(ratio, [0.1, 0.9]) if len(ratio) else [1, 1]  # a sum may stand below
            if name == "params" and _sizes_change(raw, block):
                continue  # it was not logged
            if name != "params" and ends[1] > _SAME_BLOCK * ends[0]:
                continue  # each run has a compute of its own
            data[name], column = above, matches[name].column
            notes += [f"{column!r} stands once a block: empty cells have the value above them."]
    return notes


def _sizes_change(raw: Raw, block: NDArray[np.intp]) -> bool:
    """Whether a column of widths or depths changes within a block of rows."""
    sizes = [
        c for h, c in raw.cells.items() if WORDS["sizes"] & set(re.split(r"[\W_]+", h.lower()))
    ]
    return any(
        str(cells[i]) != str(cells[b])
        for cells in sizes
        for i, b in enumerate(block.tolist())
        if not is_missing(cells[i])
    )


def _unit(raw: Raw, matches: Mapping[str, ColumnMatch]) -> str:
    """What D counts: a column that says it of all rows, else the words in the heading of D."""
    column = find_text("unit", raw.headings)
    said = set() if column is None else {str(c) for c in raw.cells[column] if not is_missing(c)}
    if len(said) == 1 and not said & WORDS["loss_units"]:
        return said.pop()
    heading = matches["tokens"].column.lower() if "tokens" in matches else ""
    return "samples" if any(w in heading for w in ("sample", "image", "example")) else "tokens"


def batches(read: Quantities) -> tuple[Floats | None, str]:
    """The batch of each row, and what it counts where that is not what D counts."""
    size, others = read.others.get("batch_size"), read.others
    if read.part_of_batch and "step" in others and "batch_tokens" not in others:
        return read.data["tokens"] / others["step"], ""
    if "batch_tokens" in others and read.unit == "tokens":
        return others["batch_tokens"], ""
    if size is None or read.unit != "tokens":
        return size, ""
    length = others.get("seq_len", _per_sample(read, size))
    return (size, "sequences") if length is None else (size * length, "")


def scaled_by_width(raw: Raw) -> bool:
    """Whether a column ``parametrization`` says μP of all rows."""
    columns = (raw.cells[h] for h in raw.cells if h.lower() == "parametrization")
    return any({str(cell).lower() for cell in cells} in ({"mup"}, {"μp"}) for cells in columns)


def _per_sample(read: Quantities, size: Floats) -> float | None:
    """The units of a sample where D and steps say one for nearly all rows."""
    if "step" not in read.others or "tokens" not in read.data:
        return None
    with np.errstate(all="ignore"):
        each = read.data["tokens"] / (read.others["step"] * size)
    usual = typical(each)
    alike = np.abs(each / usual - 1) < _ALIKE if usual > 0 else np.zeros(1, dtype=bool)
    return usual if np.mean(alike) > _NEARLY_ALL else None


def _tokens_of(others: Mapping[str, Floats]) -> tuple[Floats, str] | None:
    """D from how long the runs were, and in which words."""
    for words in _LENGTHS:
        factors = words.split()
        if all(name in others for name in factors):
            return np.prod([others[name] for name in factors], axis=0), " × ".join(factors)
    return None


def _complete(out: Quantities, planned: Floats | None, steps: tuple[Floats, str] | None) -> None:
    """Fill in C and D, and say how."""
    data, notes = out.data, out.notes
    if "tokens" not in data and steps is not None:
        data["tokens"] = steps[0]
        notes.append(f"The table has no tokens: D = {steps[1]}.")
        each = 6 * out.others.get("active_params", data["params"])
        off = typical(each * steps[0] / data["flops"]) if "flops" in data else 1.0
        if off < 1 / _COST_OFF or off > _COST_OFF:
            out.off_steps = off, "flops / (6 × params)"
    elif steps is not None and out.unit == "tokens" and "batch" in steps[1]:
        off = typical(data["tokens"] / steps[0])
        if 1 / _OFF < off < _OFF and np.any(empty := np.isnan(data["tokens"]) & (steps[0] > 0)):
            data["tokens"] = np.where(empty, steps[0], data["tokens"])
            notes.append(f"{np.sum(empty)} runs have no tokens: D = {steps[1]}.")
        repeated = off * typical(out.others.get("epochs", 1.0))
        if off > 0 and not any(1 / _OFF < x < _OFF for x in (off, repeated)):
            out.off_steps = off, steps[1]
    flops = out.matches.get("flops")
    if flops and flops.distance == 4 and "tokens" in data:
        off = typical(data["flops"] / (6 * data["params"] * data["tokens"]))
        if not 1 / _PLANNED_OFF < off < _PLANNED_OFF:
            del data["flops"], out.matches["flops"]
            notes[:] = [note for note in notes if repr(flops.column) not in note]
            notes += [f"The column {flops.column!r} is no compute of whole runs; it is not used."]
    if "flops" not in data and planned is not None:
        ratio = planned / (6 * data["params"] * data["tokens"]) if "tokens" in data else 1.0
        if 1 / _PLANNED_OFF < typical(ratio) < _PLANNED_OFF:
            data["flops"] = planned
            column = out.matches["budget"].column
            notes.append(f"The table has no FLOPs: C is the planned compute, {column!r}.")
    if "tokens" not in data:
        data["tokens"] = data["flops"] / (6 * data["params"])
        notes.append("The table has no tokens: D = C/(6N) was assumed.")
    _epochs(out)
    _costs(out)
    if planned is not None:
        _name_budgets(out)


def _name_budgets(out: Quantities) -> None:
    """Where budgets are no FLOPs but names of them, use the compute of their runs instead."""
    data, names = out.data, out.data["budget"]
    off = typical(names / data["flops"])
    if 1 / _PLANNED_OFF < off < _PLANNED_OFF:
        return
    column = out.matches.pop("budget").column
    known = np.isfinite(names) & np.isfinite(data["flops"])
    each, group = np.unique(names[known], return_inverse=True)
    groups = [data["flops"][known][group == i] for i in range(len(each))]
    spread = typical(np.array([np.max(C) / np.min(C) for C in groups]))
    if spread > _ONE_BUDGET:
        del data["budget"]
        out.notes.append(f"The column {column!r} is no compute in FLOPs; it is not used.")
        return
    means = np.array([np.exp(np.mean(np.log(C))) for C in groups])
    data["budget"] = np.full(len(names), np.nan)
    data["budget"][known] = means[group]
    out.notes.append(f"The column {column!r} only names budgets: each is the mean C of its runs.")


def _costs(out: Quantities) -> None:
    """Fill in C, and say how."""
    data, notes = out.data, out.notes
    if "flops" in data:
        product = data["params"] * data["tokens"]
        known, gaps = np.isfinite(data["flops"]), np.isnan(data["flops"]) & (product > 0)
        if np.any(known & (product > 0)) and np.any(gaps):
            rate = typical(data["flops"][known] / product[known])
            data["flops"] = np.where(gaps, rate * product, data["flops"])
            notes.append(
                f"{np.sum(gaps)} runs have no FLOPs: C = {rate:.3g}·N·D, as the others have."
            )
        return
    per_token, active = out.others.get("flops_per_token"), out.others.get("active_params")
    if per_token is not None and typical(per_token / (6 * data["params"])) > _LEAST_PER_TOKEN:
        each, words = per_token, "the FLOPs of a token times D was taken"
    elif active is not None and not np.array_equal(active, data["params"], equal_nan=True):
        each, words = 6 * active, "6·N_active·D was assumed; N counts all"
    else:
        each, words = 6 * data["params"], "6·N·D was assumed"
        out.asks_active = bool(np.nanmax(out.others.get("experts", 0), initial=0) > 1)
    out.asks_length = out.unit == "samples" and bool(
        np.nanmax(out.others.get("seq_len", 0), initial=0) > 1
    )
    data["flops"] = each * data["tokens"]
    notes.append(f"The table has no FLOPs: C = {words}.")


def _epochs(out: Quantities) -> None:
    """Use the number of epochs where something tells whether D counts repeats."""
    epochs, data = out.others.get("epochs"), out.data
    if epochs is None or not np.nanmax(epochs, initial=0) > _SEVERAL:
        return
    D, column = data["tokens"], out.matches["tokens"].column if "tokens" in out.matches else ""
    active = out.others.get("active_params", data["params"])
    spent = data["flops"] / (6 * active * D) if "flops" in data else np.full(len(D), np.nan)
    unique, words = data.get("unique_tokens"), set(column.lower().replace("/", "_").split("_"))

    def near(values: Floats, others: Floats) -> bool:
        several = (epochs > _SEVERAL) & np.isfinite(values)
        off = np.abs(np.log(values / others))[several]
        return len(off) > 0 and bool(np.median(off) < 0.25 * np.log(np.median(epochs[several])))

    if near(spent, epochs) or (unique is not None and near(unique, D)):
        data["tokens"], data["unique_tokens"] = D * epochs, D
        out.notes.append(
            f"D is {column!r} times the epochs: the compute says that it counts data once."
        )
    elif unique is not None or not column:
        return
    elif near(spent, np.ones(len(D))) or WORDS["seen"] & words:
        data["unique_tokens"] = D / np.maximum(epochs, 1)
        out.notes += [f"{column!r} counts tokens seen: unique tokens are D divided by the epochs."]
    else:
        out.asks_epochs = True


def _lacks(
    missing: list[str],
    raw: Raw,
    matches: Mapping[str, ColumnMatch],
    others: Mapping[str, Floats],
    unclear: str,
) -> TableError:
    """All that is missing, with the likeliest heading of each; ``unclear``: what is, of batches."""
    taken = {match.column for match in matches.values()}
    likely: dict[str, str] = {}
    for name in missing:
        likely[name] = likeliest(name, raw, {*taken, *likely.values()})
    compute = likeliest("flops", raw, taken) if "tokens" in missing else ""
    if re.search(_SPEAKS_OF["flops"], compute.lower()) and likely["tokens"] == "your_column":
        likely["flops"] = likely.pop("tokens") and compute
    fix = f"Say which is which: columns={likely}."
    first = raw.cells.get(raw.headings[0], ()) if raw.headings else ()
    known = {n for c in first for n in _REQUIRED if not is_missing(c) and rank(n, str(c))}
    values = [h for h in raw.headings if re.fullmatch(r"[\d.]+(e[+-]?\d+)?", h)]
    asked = [*missing, *(["flops"] if "tokens" in missing else [])]
    form = r"(?:log|ln|lg)(?:10|2|e)?[\s_(]*(.+?)\)?"
    bare = [(h, m[1]) for h in raw.headings if (m := re.fullmatch(form, h.strip().lower()))]
    logs = [h for h, b in bare if any(rank(name, b) for name in asked)]
    if len(values) > 1 and not any(rank(n, h) for n in _REQUIRED for h in raw.headings):
        fix = "Its first line holds numbers: put the headings params,tokens,loss above."
    elif wide := wide_hint(raw.headings):
        fix = wide.strip()
    elif len(known) > 1:
        fix = "The quantities stand in rows, one column a run: transpose the table."
    elif logs:
        fix = f"Logarithms are not read: add columns of the numbers themselves beside {logs}."
    elif "tokens" in missing and unclear:
        fix += unclear
    elif "tokens" in missing and "step" in others:
        fix += " Steps are no tokens: add a column tokens = steps × batch size × sequence length."
    elif "loss" in missing and re.search("ppl|perplexity", " ".join(raw.headings).lower()):
        fix += " Perplexity is no loss: add a column loss = ln(perplexity)."
    elif "tokens" in missing and "samples" in others:
        fix += " Sequences are no tokens: add a column of the sequence length, seq_len."
    more = f" and {len(raw.headings) - _SHOWN} more" if len(raw.headings) > _SHOWN else ""
    has = f"{list(raw.headings[:_SHOWN])}{more}"
    return TableError(f"the table lacks {missing}; it has the columns {has}. {fix}")
