"""Valid files with some of their bytes, cells or values changed, as torn or foreign files are."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

# What parsers trip over: ends and signs of numbers, quotes, marks, nesting, compression, encodings.
TOKENS = (
    b"", b"\0", b"\n", b"\r", b",", b";", b"\t", b"|", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b":",
    b"=", b"#", b"-", b"+", b".", b"e", b"1e999", b"-1e999", b"nan", b"NaN", b"inf", b"-Infinity",
    b"null", b"true", b"0", b"-1", b"1" * 400, b"1e-400", b"0x10", b"1_000", b"\xef\xbb\xbf",
    b"\xff\xfe", b"\xff", b"\x81", "\u2028".encode(), "١٢".encode(), "−3".encode(), b"\x1f\x8b", b"PAR1",
    b"[" * 3000, b'{"a":' * 3000, b"__class__", b"../..", b"$(id)", b"\x7f\xff\xff\xff", b"\x80\0\0\0",
)  # fmt: skip

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**63, 10**400, 1e308, 5e-324, "", "nan", "1e999", "\0", "x" * 300])
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with up to four of its places cut, doubled, flipped or overwritten, or its end torn off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        end = min(len(changed), at + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(["cut", "double", "flip", "insert", "replace", "tear"]))
        if kind == "cut":
            del changed[at:end]
        elif kind == "double":
            changed[at:at] = changed[at:end]
        elif kind == "flip" and at < len(changed):
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            changed[at:at] = draw(st.sampled_from(TOKENS))
        elif kind == "replace":
            changed[at:end] = draw(st.sampled_from(TOKENS))
        elif kind == "tear":
            del changed[at:]
    return bytes(changed)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from _places(inner, (*path, key))


@st.composite
def mutated_values(draw: st.DrawFn, content: Any) -> Any:
    """JSON's values with up to three of them, at any depth, replaced, left out, renamed or doubled."""
    changed = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(changed))
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        inside = changed
        for key in path:
            inside = inside[key]
        kind = draw(st.sampled_from(["replace", "replace", "leave out", "rename", "double"]))
        if kind == "replace":
            inside[last] = draw(PLAIN)
        elif kind == "leave out":
            del inside[last]
        elif isinstance(inside, list):
            inside.insert(last, copy.deepcopy(inside[last]))
        else:
            moved = inside.pop(last) if kind == "rename" else copy.deepcopy(inside[last])
            inside[draw(st.text(max_size=5))] = moved
    return changed


def mutated_json(content: bytes) -> st.SearchStrategy[bytes]:
    """A JSON file changed by its bytes or by its values."""
    values = mutated_values(json.loads(content)).map(lambda v: json.dumps(v).encode())
    return mutated_bytes(content) | values
