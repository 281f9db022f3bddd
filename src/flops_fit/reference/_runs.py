"""Published runs, packaged so that fits can be compared without a download."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

from flops_fit.errors import InputError
from flops_fit.table import RunTable

__all__ = ["RUN_NAMES", "runs", "source"]

_SOURCES: dict[str, tuple[str, str]] = {
    "hoffmann2022_epoch": (
        "hoffmann2022_epoch.csv",
        "Hoffmann et al. 2022, 'Training Compute-Optimal Large Language Models' "
        "(arXiv:2203.15556), Figure 4, digitised by Besiroglu et al. 2024 (Epoch AI, "
        "arXiv:2404.10102); 245 points, facts read off a figure.",
    ),
    "llama3_2024": (
        "llama3_2024.csv",
        "'The Llama 3 Herd of Models', 2024 (arXiv:2407.21783), Figure 2, digitised; 133 points, "
        "facts read off a figure. The loss is a normalised negative log-likelihood.",
    ),
}
RUN_NAMES = tuple(_SOURCES)


def source(name: str) -> str:
    """Where the runs called ``name`` come from, and on what terms."""
    return _entry(name)[1]


def runs(name: str) -> RunTable:
    """Published runs as a :class:`~flops_fit.table.RunTable`; its notes carry the source.

    - ``"hoffmann2022_epoch"``: 245 points of Chinchilla's Figure 4. Besiroglu et al. keep the 240 whose
      loss is strictly below the fifth largest.
    - ``"llama3_2024"``: 133 IsoFLOP points of the Llama 3 report, Figure 2.

    Measurements read off a figure are facts; the sources are cited so that they can be credited.

    Raises
    ------
    InputError
        No runs of that name.
    """
    file, text = _entry(name)
    with resources.as_file(resources.files(__package__) / "data" / file) as path:
        table = RunTable.read(path)
    return replace(table, notes=(*table.notes, f"Source: {text}"))


def _entry(name: str) -> tuple[str, str]:
    if name not in _SOURCES:
        raise InputError(f"expected published runs out of {list(_SOURCES)}; got {name!r}.")
    return _SOURCES[name]
