"""Forms of law are chosen by what they predict of budgets held out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flops_fit import fit_runs, reference
from flops_fit.errors import FitError, InputError
from flops_fit.laws import LAWS, Hoffmann, Kaplan
from tests.fit._runs import sweep

LAW = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
KAPLAN = Kaplan(8.8e13, 5.4e13, 0.076, 0.103)


def test_the_form_that_made_the_runs_predicts_them_best() -> None:
    fit = fit_runs(sweep(KAPLAN, sd=0.001), "search")
    [best, *others] = fit.search.forms
    assert best.law == "kaplan"
    assert best.loss_error < 0.002
    assert all(np.isnan(o.loss_error) or o.loss_error > best.loss_error for o in others)


def test_the_default_stays_where_no_form_is_clearly_better() -> None:
    runs = sweep(LAW, sd=0.003, seed=1)
    fit, default = fit_runs(runs, "search"), fit_runs(runs)
    assert fit.search.chosen == "auto"
    assert fit.law == default.law
    assert default.search is None
    assert {form.law for form in fit.search.forms} == {"auto", "hoffmann", "kappa", "kaplan"}
    assert fit.predict(1e21).to_dict() == default.predict(1e21).to_dict()


def test_laws_of_repeated_data_are_tried_where_the_runs_say_how_much_was_unique() -> None:
    fit = fit_runs(reference.runs("muennighoff2023_c4"), "search")
    tried = {form.law: form for form in fit.search.forms}
    assert set(tried) == {"auto", *LAWS} - {"experts", "steps"}
    assert fit.law.name == "overfit"
    assert tried["overfit"].loss_error < 0.5 * tried["auto"].loss_error


def test_the_search_is_told_as_a_table_and_as_plain_values() -> None:
    fit = fit_runs(sweep(LAW, sd=0.003, seed=1), "search")
    text = str(fit.search)
    assert "| auto " in text
    assert "chosen" in text
    record = json.loads(json.dumps(fit.to_dict()["search"]))
    assert record["chosen"] == "auto"
    assert [form["law"] for form in record["forms"]] == [f.law for f in fit.search.forms]


def test_a_search_needs_budgets_to_judge_on() -> None:
    with pytest.raises(FitError, match="3 budgets or more"):
        fit_runs(sweep(LAW, budgets=(1e18, 1e19)), "search")


def test_groups_share_a_law_that_is_named() -> None:
    runs = sweep(LAW)
    runs["corpus"] = np.array(["a", "b"] * len(runs["loss"]))[: len(runs["loss"])]
    with pytest.raises(InputError, match="by its name"):
        fit_runs(runs, "search", group="corpus")


@pytest.mark.parametrize(
    "known", [{"fixed": {"E": 1.8}}, {"fixed": {"kappa": 0.9}}, {"prior": {"E": (1.8, 0.1)}}]
)
def test_only_forms_that_have_the_known_constants_are_tried(known: dict[str, object]) -> None:
    fit = fit_runs(sweep(LAW, sd=0.003), "search", **known)
    tried = {form.law for form in fit.search.forms}
    assert "kaplan" not in tried
    assert {"auto", "kappa"} <= tried
    assert all(fit.law.params[name] == value for name, value in known.get("fixed", {}).items())
