"""Published runs and laws: counts, sources, names."""

from __future__ import annotations

import pytest

from flops_fit import reference
from flops_fit.errors import InputError


def test_runs_have_their_published_counts_and_sources():
    """245 points of Chinchilla's Figure 4, 133 of Llama 3's Figure 2, each with its paper."""
    assert len(reference.runs("hoffmann2022_epoch")) == 245
    assert len(reference.runs("llama3_2024")) == 133
    for name in reference.RUN_NAMES:
        assert "arXiv" in reference.source(name)
        assert any("arXiv" in note for note in reference.runs(name).notes)


def test_laws_say_what_their_papers_say():
    """Chinchilla at its own budget: 1.9366; the refit asks for about 72 billion parameters."""
    assert reference.law("hoffmann2022").loss(70e9, 1.4e12) == pytest.approx(1.9366, abs=1e-4)
    assert reference.law("besiroglu2024").optimal(5.76e23).params == pytest.approx(72e9, rel=0.01)


def test_unknown_names_are_answered_with_the_known_ones():
    """A typo is answered with the list."""
    with pytest.raises(InputError, match="hoffmann2022"):
        reference.law("hoffman")
    with pytest.raises(InputError, match="llama3"):
        reference.runs("llama")
