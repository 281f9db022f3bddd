"""What a heading says: the quantity that it names, the unit in it, and words that tell of neither."""

import functools
import re
import unicodedata

from flops_fit.table.cells import HEADINGS, WORDS, unit_factor

_COUNTS = ("params", "tokens", "flops", "budget", "unique_tokens")
# Whose heading may end in a remark in brackets, of FLOPs one that is no unit.
_REMARKED = ("params", "tokens", "loss", "flops", "budget")
_NO_UNIT = re.compile(r"[(\[].*(?:[a-z]{3}|nd).*[)\]]")
_MAY_BE_UNIT = re.compile(r"[(\[](?:[^a-wyz]*\d|_*[bm]ill?_*[)\]])|[(\[].*[^\x00-\x7f]")
# What pandas and polars put behind a heading that stands twice, or has no second level.
_ADDED = re.compile(r"(?<=[a-z)\]])(?:\.[1-9]\d?|_duplicated_\d+|/unnamed: \d+_level_\d+)$", re.I)
_LONG_PREFIXES = [w for words in HEADINGS["prefixes"].values() for w in words.split() if len(w) > 1]
# Whose headings and cells carry no units; top_k is no top in thousands.
FRACTIONAL = (
    *("loss", "loss_se", "loss_at_least", "epochs", "lr", "ratio", "experts", "experts_per_token"),
    "weight_decay",
)


@functools.lru_cache(4096)
def split_unit(heading: str) -> tuple[str, float]:
    """A heading without its unit, and the unit: ``Params (M)`` is params, 1e6."""
    text = normalised(heading)
    if match := re.fullmatch(r"(.+?)_*(?:[(\[,]|_in_)_*(?:in_)?([^()\[\]]+?)_*[)\]]?", text):
        units = {u for part in re.split("[,;:]", match[2]) if (u := unit_factor(part))}
        if units and len(units - {1.0}) < 2:
            return match[1].rstrip("_,"), max(units)
    if match := re.fullmatch(
        r"(.*?[_/.]|)([a-z]*?f(?:lop|lo)?s?(?:[_/]s)?_days?|[a-z]+flops?)", text
    ):
        factor = unit_factor(match[2])
        if factor is not None and factor != 1:
            return f"{match[1]}flops", factor
    counted = r"([kmgbt]|[a-z]{3,}?)[._]*(?:of_)?(params|parameters?|tokens|toks)"
    if (match := re.fullmatch(counted, text)) and (factor := unit_factor(match[1])):
        return match[2], factor
    if match := re.fullmatch(r"(.+?)_*[/x×*_]_*((?:10\^|10\*\*|1?e)\+?\d+)", text):
        return match[1], unit_factor(f"1{match[2]}" if match[2][0] == "e" else match[2]) or 1.0
    head, _, unit = text.rpartition("_")
    factor = unit_factor(unit) if head and unit.isalpha() and not unit.startswith("f") else None
    return (head, factor) if factor is not None and factor != 1 else (text, 1.0)


@functools.lru_cache(65536)
def rank(name: str, heading: str) -> tuple[int, int, int] | None:
    """How badly a heading suits a quantity: the kind of loss, the distance, and the preference."""
    normal = normalised(heading)
    words = set(words_of(normal.replace("cross_entropy", "ce")))
    held_out = bool(words & WORDS["held_out"])
    purpose = 0
    if name == "loss" and not held_out:
        purpose = 2 if words & WORDS["training"] or plain_name(heading) in TRAIN_LOSS else 1
    if _ADDED.sub("", heading.lower()) == name:
        return purpose, 0, 0
    if name != "loss" and held_out:
        return None  # the tokens of an evaluation are not those of the training
    bare, factor = split_unit(heading)
    if name == "batch_size" and words & {"tokens", "toks", "tok"}:
        return None  # a batch in tokens
    if name in _COUNTS and WORDS["rates"] & set(re.split(r"[\W_]+", bare)):
        return None  # a speed, a share or a time
    bases = [(heading, 0)]
    if factor == 1 or name not in FRACTIONAL:
        bases.append((bare, 1))
    letter = name[0] if name == "loss" else {"params": "n", "tokens": "d", "flops": "c"}.get(name)
    apart = rf"{letter}_*[:=,_][_#]*(.+)|(.+?)_*[:=,_]_*{letter}"  # the symbol beside the word
    if letter and (symbol := re.fullmatch(apart, bare)):
        bases.append((symbol[1] or symbol[2], 2))
    remark = re.fullmatch(r"(.+?)_*[(\[][^()]*[)\]]", bare) if name in _REMARKED else None
    if (name in ("flops", "budget") and not _NO_UNIT.search(bare)) or (
        name in ("params", "tokens") and _MAY_BE_UNIT.search(bare)
    ):
        remark = None
    if remark and not (name == "loss" and words & WORDS["not_loss"]):
        bases.append((remark[1], 2))
    for base, farther in bases:
        plain, last = plain_name(base), _parts(base)[-1]
        for preference, usual in enumerate(USUAL[name]):
            whole, path, end = (
                bool({t, _core(t) if name in _COUNTS and not preference else t} & usual)
                for t in (normalised(base), plain, last)
            )
            if whole or path:
                unsure = name == "flops" and re.fullmatch(r"(.*/)?[a-z]+flops?", normal) and farther
                return purpose, 4 if unsure else 3 if farther == 2 else 2 - whole, preference
            # A lone letter at the end of a path, such as attention/n, says too little.
            if len(last) > 1 and end and last != plain:
                return purpose, 3, preference
    named = name == "loss" and words & WORDS["loss"] and not words & WORDS["not_loss"]
    return (purpose, 5 + (not held_out), 0) if named else None


def words_of(heading: str) -> list[str]:
    """The words of a heading, in lower case."""
    return re.split(r"[_./:()=<>\"]+", normalised(heading))


def _core(plain: str) -> str:
    """A heading without the words that change nothing, unless no more than a letter is left."""
    core = "_".join(word for word in plain.split("_") if word not in WORDS["fillers"])
    return core if len(core) > 1 else plain


def normalised(heading: str) -> str:
    """A heading in lower case, "_" for blanks and hyphens, without marks around it."""
    text = _ADDED.sub("", heading.translate({0xFF08: "(", 0xFF09: ")"}))
    text = re.sub(r"<br\s*/?>|\s*\(?±.*$|(?<=\w)\.(?=\s)", " ", text)
    text = re.sub(r"[\u200b-\u200f\ufeff]", "", text).strip().removesuffix(",none")
    text = re.sub(r"[\U0001d400-\U0001d7ff]", lambda m: unicodedata.normalize("NFKC", m[0]), text)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text.lstrip("#№").strip(" *`$\"'†‡§¹²³↓↑"))
    normal = re.sub(r"[\s\-]+", "_", words.lower())
    normal = re.sub(rf"({'|'.join(_LONG_PREFIXES)})_(?=flop)", r"\1", normal)
    normal = re.sub(r"(loss|size|budget|count)e?s(?=_|$)", r"\1", normal)
    normal = re.sub(r"(?<![a-z])(train|val|eval|test)(?=(?:loss|bpb)(?![a-z]))", r"\1_", normal)
    # A batch in tokens is no number of sequences.
    return re.sub(
        r"batch(?:_size)?_*[(\[]((?:[kmb]_?)?)tokens?[)\]]$", r"batch_tokens_\1", normal
    ).rstrip("_")


def _parts(heading: str) -> list[str]:
    """The components of a path such as ``summary.val/loss``, without the tracker's own first ones."""
    parts = [part for part in re.split(r"[./:]+", normalised(heading)) if part] or [""]
    while len(parts) > 1 and parts[0] in WORDS["scopes"]:
        parts = parts[1:]
    if len(parts) > 1 and parts[-1] == "value":  # W&B keeps {"desc": ..., "value": ...}
        parts = parts[:-1]
    if len(parts) == 1:
        for scope in ("config_", "summary_", "metrics_", "params_", "user_attrs_"):
            bare = parts[0].removeprefix(scope)
            parts = [bare if len(bare) > 1 and bare not in WORDS["fillers"] else parts[0]]
    return parts


def plain_name(heading: str) -> str:
    """A heading without a tracker's own first parts, the others joined by "_"."""
    return "_".join(_parts(heading))


def _gathered() -> tuple[dict[str, list[set[str]]], dict[tuple[str, str], str], set[str]]:
    """The usual headings with those of each tool, who writes them, and losses in training."""
    usual = {n: [set(tier.split()) for tier in tiers] for n, tiers in HEADINGS["usual"].items()}
    tools: dict[tuple[str, str], str] = {}
    in_training: set[str] = set()
    for tool, columns in HEADINGS["tools"].items():
        for name, headings in columns.items():
            quantity = "loss" if name == "train_loss" else name
            for heading in headings:
                plain = plain_name(split_unit(heading)[0])
                if not any(plain in tier for tier in usual[quantity]):
                    usual[quantity][0].add(plain)
                    tools[quantity, plain_name(heading)] = tool
                if name == "train_loss":
                    in_training.add(plain)
    return usual, tools, in_training


TEXT = {name: tuple(words.split()) for name, words in HEADINGS["text"].items()}
USUAL, TOOLS, TRAIN_LOSS = _gathered()
