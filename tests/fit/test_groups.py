"""One law for several groups of runs: shared exponents, own constants, and the test of both."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flops_fit import compare, fit_runs
from flops_fit.errors import FitError, InputError, TableError
from flops_fit.fit import Fit, GroupFit
from flops_fit.fit.groups import beliefs, share_constants, shared_names, split_finding
from flops_fit.fit.misfit_mean import Known
from flops_fit.fit.solver import Solution
from flops_fit.fit.surface import points_of
from flops_fit.fit.surface_solver import SurfaceSolver
from flops_fit.laws import Hoffmann, Kaplan, Kappa, Law
from flops_fit.table import RunTable
from tests.fit._runs import sweep, unconverged

WEB = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
CODE = Hoffmann(1.1, 300.0, 900.0, 0.35, 0.37)
STEEP = Hoffmann(1.8, 2000.0, 2100.0, 0.43, 0.37)


def corpora(sd: float = 0.0, seed: int = 0, **laws: Law) -> dict[str, Any]:
    """Sweeps of several laws below each other, with a column that names them."""
    parts = [sweep(law, sd=sd, seed=seed + i) for i, law in enumerate(laws.values())]
    columns: dict[str, Any] = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    columns["corpus"] = [n for n, p in zip(laws, parts, strict=True) for _ in p["loss"]]
    return columns


def solved(law: Law, seed: int) -> Solution:
    table = RunTable.read(sweep(law, sd=0.004, seed=seed))
    return SurfaceSolver(Hoffmann, points_of(table, log=True)).fit(np.ones(len(table)), "mad")


@pytest.fixture(scope="module")
def grouped() -> GroupFit:
    return fit_runs(corpora(0.004, web=WEB, code=CODE), "hoffmann", group="corpus")


def test_groups_with_equal_exponents_are_recovered() -> None:
    fit = fit_runs(corpora(web=WEB, code=CODE), "hoffmann", group="corpus")
    assert list(fit) == ["code", "web"]
    assert fit.shared == pytest.approx({"alpha": 0.35, "beta": 0.37}, rel=1e-5)
    for name, law in (("web", WEB), ("code", CODE)):
        assert fit[name].law.params == pytest.approx(law.params, rel=1e-4)


def test_weights_of_all_groups_are_one_a_run() -> None:
    with pytest.raises(InputError, match="one weight for each of the 70 usable runs"):
        fit_runs(corpora(0.004, web=WEB, code=CODE), group="corpus", weights=[1.0, 2.0])


def test_shared_constants_are_the_same_in_every_group(grouped: GroupFit) -> None:
    for fit in grouped.fits.values():
        assert isinstance(fit, Fit)
        assert {name: fit.law.params[name] for name in grouped.shared} == grouped.shared
        assert "shared_constants" in {d.code for d in fit.diagnostics}
    assert grouped["web"].law.params["E"] != grouped["code"].law.params["E"]
    assert (grouped.p_value or 0) > 0.05
    assert grouped.diagnostics[0].severity == "ok"


def test_what_the_other_group_says_makes_a_group_surer(grouped: GroupFit) -> None:
    alone = fit_runs(sweep(CODE, sd=0.004, seed=1), "hoffmann")
    spread = [
        np.std([law.exponent for law in fit._evidence.drawn_laws])
        for fit in (grouped["code"], alone)
    ]
    assert spread[0] < 0.6 * spread[1]
    low, high = grouped.predict("web", 1e21).intervals["optimal_params"]
    assert low < WEB.optimal(1e21).params < high


def test_the_test_of_equal_exponents_has_the_right_size() -> None:
    """A share of 5 % of rejections within four standard errors over 30 pairs of sweeps."""
    n, names = 30, ("alpha", "beta")
    p = [
        share_constants([solved(WEB, 2 * i), solved(CODE, 2 * i + 1)], names).p_value
        for i in range(n)
    ]
    assert np.mean(np.array(p) < 0.05) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / n)
    assert 0.3 < np.mean(np.array(p) < 0.5) < 0.7


def test_a_group_with_another_exponent_is_told() -> None:
    fit = fit_runs(corpora(0.002, web=WEB, code=CODE, steep=STEEP), "hoffmann", group="corpus")
    assert (fit.p_value or 1) < 0.001
    assert fit.diagnostics[0].severity == "warning"
    only = fit_runs(
        corpora(0.002, web=WEB, steep=STEEP), "hoffmann", group="corpus", share=("beta", "E")
    )
    assert (only.p_value or 0) > 0.01
    assert set(only.shared) == {"beta", "E"}
    assert only["steep"].law.params["alpha"] == pytest.approx(0.43, abs=0.02)


def test_groups_may_be_labels_and_a_constant_may_be_known_as_well() -> None:
    columns = corpora(0.002, web=WEB, steep=STEEP)
    labels = columns.pop("corpus")
    fit = fit_runs(columns, "hoffmann", group=labels, share=("beta",), fixed={"E": 1.8})
    assert {f.law.params["E"] for f in fit.fits.values()} == {1.8}
    again = fit_runs(RunTable.read(columns), "hoffmann", group=np.array(labels), share=["beta"])
    assert set(again.shared) == {"beta"}


def test_one_group_that_needs_kappa_gives_it_to_all() -> None:
    joined = Kappa(1.8, 480.0, 2100.0, 0.5, 0.52, 0.6)
    columns = corpora(0.001, plain=WEB, joined=joined)
    fit = fit_runs(columns, group="corpus")
    assert {type(f.law) for f in fit.fits.values()} == {Kappa}
    assert set(fit.shared) == {"alpha", "beta", "kappa"}


def test_two_fifths_of_the_scatter_between_two_halves_of_a_sweep_are_enough() -> None:
    """F is then 20 at 30 degrees of freedom, p = 1e-4."""
    columns = sweep(WEB, sd=0.003, seed=1)
    second = np.arange(len(columns["loss"])) % 2 == 1
    columns["loss"] = columns["loss"] * np.exp(np.where(second, 0.005, 0.0))
    runs = {**columns, "team": ["b" if s else "a" for s in second]}
    found = {d.code: d for d in fit_runs(runs, "hoffmann").diagnostics}
    percent = re.search(r"(\d+) % of the scatter", found["groups_mixed"].message)
    assert percent is not None
    assert 30 <= int(percent[1]) <= 50


def test_a_column_of_text_that_splits_the_losses_is_offered() -> None:
    columns = corpora(0.003, web=WEB, code=CODE)
    columns["owner"] = ["a", "b"] * (len(columns["corpus"]) // 2)
    findings = {d.code: d for d in fit_runs(columns).diagnostics}
    assert "column 'corpus'" in findings["groups_mixed"].message
    assert "group='corpus'" in findings["groups_mixed"].action
    same = {**columns, **sweep(WEB, sizes=14, sd=0.003)}
    assert "groups_mixed" not in {d.code for d in fit_runs(same).diagnostics}


def test_a_file_keeps_its_columns_of_text(tmp_path: Path) -> None:
    rows = RunTable.read(corpora(web=WEB, code=CODE)).to_dicts()
    path = tmp_path / "runs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    table = RunTable.read(path)
    assert table.texts["corpus"][0] == "web"
    assert table.select(table.loss > np.median(table.loss)).texts["corpus"]
    lines = [",".join(map(str, row.values())) for row in rows]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([",".join(rows[0]), *lines]))
    assert RunTable.read(path).texts == table.texts


def test_a_group_fit_reads_and_travels(grouped: GroupFit) -> None:
    text = repr(grouped)
    for words in ("2 groups share alpha = 0.3", "| web ", "trust"):
        assert words in text
    assert json.loads(json.dumps(grouped.to_dict()))["groups"].keys() == {"code", "web"}
    assert "<table" in grouped._repr_html_()


def test_comparing_shares_exponents_unless_they_differ(grouped: GroupFit) -> None:
    web, code, steep = (
        fit_runs(sweep(law, sd=0.002, seed=s), "hoffmann")
        for s, law in enumerate((WEB, replace(CODE, E=1.8), STEEP))
    )
    shared, apart = compare(web, code), compare(web, steep)
    assert "shared_constants" in {d.code for d in shared.diagnostics}
    assert "shared_constants" not in {d.code for d in apart.diagnostics}
    assert compare(grouped["web"], grouped["code"]).p_value is None


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"group": "optimizer"}, TableError, "a column of text"),
        ({"group": ["a", "b"]}, InputError, "one label for each"),
        ({"group": ["a"] * 70}, InputError, "two groups or more"),
        ({"group": "corpus", "share": ("A",)}, InputError, "expected some of"),
        ({"group": "corpus", "share": "alpha"}, InputError, "expected some of"),
        ({"group": "corpus", "fixed": {"alpha": 0.3}}, InputError, "not in fixed="),
        ({"group": "corpus", "curves": []}, InputError, "no curves="),
    ],
)
def test_what_cannot_be_grouped_is_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        fit_runs(corpora(web=WEB, code=CODE), "hoffmann", **options)


def test_an_unknown_group_is_refused(grouped: GroupFit) -> None:
    with pytest.raises(InputError, match="group: expected one of"):
        grouped["books"]


def test_without_an_optimum_of_each_group_equality_is_not_tested() -> None:
    """The shared constants are found all the same, and the finding says that there was no test."""
    solutions = [solved(WEB, 0), solved(CODE, 1)]
    sound = share_constants(solutions, ("alpha", "beta"))
    lost = share_constants(
        [solutions[0], replace(solutions[1], converged=False)], ("alpha", "beta")
    )
    assert lost.values == sound.values
    assert sound.p_value is not None
    assert lost.p_value is None
    told = lost.diagnostic("two groups")
    assert "not tested" in told.message
    assert told.severity == "ok"


def test_a_group_without_an_interval_tells_the_others_nothing() -> None:
    """It learns from them; they are left with what they know."""
    fits = [fit_runs(sweep(law, sd=0.004), "hoffmann") for law in (WEB, CODE)]
    first, second = fits[0]._evidence, unconverged(fits[1])._evidence
    one, other = beliefs([first, second], ("alpha", "beta"))
    assert one is None
    assert other is not None
    assert np.exp(other.mean) == pytest.approx([0.35, 0.37], rel=0.15)


def test_any_constants_of_a_law_outside_the_family_may_be_shared() -> None:
    assert shared_names(("alpha_N",), Kaplan, Known()) == ("alpha_N",)
    with pytest.raises(InputError, match="expected some of"):
        shared_names(("E",), Kaplan, Known())


def test_columns_that_follow_the_budgets_are_told_and_numbers_that_grow_with_size_are_not() -> None:
    """A phase of the sweep cannot be told from its compute; a depth is what the law explains."""
    columns = sweep(WEB, sd=0.003)
    small = columns["budget"] < 5e18
    depth = np.round(np.log2(columns["params"])).astype(int)
    table = RunTable.read({**columns, "phase": np.where(small, "first", "second")})
    texts = {**table.texts, "depth": tuple(map(str, depth))}
    solution = SurfaceSolver(Hoffmann, points_of(table, log=True)).fit(np.ones(len(table)), "mad")
    (told,) = split_finding(solution, replace(table, texts=texts))
    assert told.code == "groups_follow"
    assert "'phase'" in told.message


def test_a_group_of_too_few_runs_is_named() -> None:
    columns = corpora(0.004, web=WEB, code=CODE)
    columns["corpus"] = ["rare" if i < 2 else name for i, name in enumerate(columns["corpus"])]
    with pytest.raises(FitError, match="group 'rare': expected more than"):
        fit_runs(columns, group="corpus")


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_labels_without_a_value_make_no_group(missing: object) -> None:
    columns = corpora(0.004, web=WEB, code=CODE)
    labels = [missing, *columns.pop("corpus")[1:]]
    fit = fit_runs(columns, "hoffmann", group=labels)
    assert set(fit) == {"web", "code"}


def test_a_constant_named_twice_is_shared_once() -> None:
    columns = corpora(0.004, web=WEB, code=CODE)
    fit = fit_runs(columns, "hoffmann", group="corpus", share=("alpha", "alpha"))
    assert list(fit.shared) == ["alpha"]


def test_sharing_needs_groups() -> None:
    with pytest.raises(InputError, match="expected group= beside it"):
        fit_runs(sweep(WEB), share=("alpha",))


def test_groups_may_be_numbers() -> None:
    columns = corpora(0.004, web=WEB, code=CODE)
    columns["corpus"] = [{"web": 0, "code": 1}[name] for name in columns["corpus"]]
    assert set(fit_runs(columns, "hoffmann", group="corpus")) == {"0", "1"}
