"""Answers from runs and published laws are those of the library."""

from __future__ import annotations

import csv
import gzip
import inspect
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import flops_fit
from flops_fit import reference
from flops_fit.cli.answer import number, output, read_fit
from flops_fit.cli.program import app
from flops_fit.laws import Hoffmann
from flops_fit.records import Run
from flops_fit.store import Store, recorded_findings
from flops_fit.table import RunTable
from flops_fit.text import format_count
from tests.cli._calls import called
from tests.cli._typed import TYPED
from tests.conftest import make_experiment
from tests.fit._experts import rows
from tests.fit._runs import sweep
from tests.laws.test_steps import batches

Capsys = pytest.CaptureFixture[str]


def test_a_published_law_is_a_calculator(capsys: Capsys) -> None:
    law = reference.law("hoffmann2022")
    told = called(capsys, "predict", "--law", "hoffmann2022", "5.76e23", "--loss", "2", "--json")
    (row,) = told.document["predictions"]
    assert row["optimal_params"] == pytest.approx(3.22e10, rel=0.01)
    assert row["expected_loss"] == pytest.approx(law.optimal(5.76e23).loss)
    (reached,) = told.document["losses"]
    assert reached["value"] == pytest.approx(law.compute_for(2.0))
    assert reached["at"]["expected_loss"] == pytest.approx(2.0, rel=1e-6)
    words = called(capsys, "predict", "--law", "hoffmann2022", "5.76e23").out
    assert "| 5.76e+23       | 32.2B" in words
    assert "arXiv:2203.15556" in words


def test_caps_and_use_count(capsys: Capsys) -> None:
    law = reference.law("besiroglu2024")
    options = ["--max-params", "2e10", "--inference-tokens", "1e13", "--json"]
    told = called(capsys, "predict", "--law", "besiroglu2024", "1e24", *options)
    (row,), (life,) = told.document["predictions"], told.document["inference"]
    assert row["binds"] == ["max_params"]
    assert row["optimal_params"] == 2e10
    expected = law.optimal_for_inference(row["expected_loss"], 1e13)
    assert life["params"] == pytest.approx(expected.params)


@pytest.mark.parametrize("text", TYPED)
def test_numbers_are_read_as_people_type_them_or_refused(text: str) -> None:
    """Nothing that may mean two numbers is read."""
    assert number(text) == (None if TYPED[text] is None else pytest.approx(TYPED[text], rel=1e-12))


def test_budgets_and_limits_are_typed_alike(capsys: Capsys) -> None:
    """In every place where a number of FLOPs, parameters or tokens stands."""
    plain, typed = (
        called(capsys, "predict", "--law", "besiroglu2024", C, "--max-params", N, "--json").document
        for C, N in (("3e24", "2e10"), ("3×10²⁴", "20B"))
    )
    assert plain == typed
    told = called(capsys, "predict", "--law", "besiroglu2024", "2,500")
    assert told.code == 2
    assert "expected a positive number such as 1e21" in told.err
    assert "may mean two numbers" in told.err


def test_an_answer_about_use_brings_its_own_findings(capsys: Capsys, folder: Path) -> None:
    """And the words above it count them, as Python's answer does."""
    told = called(capsys, "predict", folder, "3e10", "--inference-tokens", "1e12")
    fit = read_fit(folder, "auto", None)
    served = fit.optimal_for_inference(fit.predict(3e10).expected_loss, 1e12)
    critical = [d.message for d in served.diagnostics if d.severity == "critical"]
    assert critical
    assert all(message in told.out for message in critical)
    assert "Do not rely on this answer" in told.out
    assert told.code == 1


def test_run_predict_fit_and_report_say_the_same_findings(capsys: Capsys, folder: Path) -> None:
    """Those of the plan, too, which the folder keeps."""
    planned = {d.message for d in recorded_findings(folder)}
    assert planned
    for command in ("fit", "report"):
        out = called(capsys, command, folder).out
        serious = [d for d in recorded_findings(folder) if d.severity in ("warning", "critical")]
        assert all(d.message in out for d in serious), command


CLI = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
KEYS = dict(re.findall(r"^\| `(\w+)` \| (`\w+`(?:, `\w+`)*) \|$", CLI, re.MULTILINE))


@pytest.mark.parametrize("command", [name for name in KEYS if name not in ("run", "plan")])
def test_documents_have_the_keys_that_the_page_names(
    capsys: Capsys, folder: Path, tmp_path: Path, command: str
) -> None:
    """And the keys of a prediction, a fit and a finding."""
    more = {
        "predict": ["3e11"],
        "compare": [folder],
        "next": ["--target", "3e11", "--spend", "1e10"],
        "export": [tmp_path / "runs.csv"],
        "report": ["--output", tmp_path / "page.html"],
    }
    document = called(capsys, command, folder, *more.get(command, ()), "--json").document
    assert set(re.findall(r"`(\w+)`", KEYS[command])) <= set(document)
    rows = document.get("predictions", [])
    assert all(keys("Each of `predictions`") <= set(row) for row in rows)
    assert keys("The key `fit`", ".") <= set(document.get("fit") or keys("The key `fit`", "."))
    findings = document.get("findings", []) if command != "doctor" else []
    assert all(keys("A finding", ". ") <= set(finding) for finding in findings)


def keys(subject: str, end: str = "; ") -> set[str]:
    """The keys that the page says something has."""
    (words,) = re.findall(rf"{subject} has (.*?){re.escape(end)}", CLI, re.DOTALL)
    return set(re.findall(r"`(\w+)`", words))


@pytest.mark.parametrize("law", ["hoffmann2022", "muennighoff2023", "llama3_2024"])
def test_a_published_law_answers_in_the_keys_of_a_fit(capsys: Capsys, law: str) -> None:
    """What it does not know is null, and it counts tokens."""
    document = called(capsys, "predict", "--law", law, "1e24", "--json").document
    assert set(re.findall(r"`(\w+)`", KEYS["predict"])) - {"trust", "findings"} <= set(document)
    (row,) = document["predictions"]
    assert keys("Each of `predictions`") <= set(row)
    assert [row[k] for k in ("intervals", "level", "extrapolation")] == [None, None, None]
    assert (row["unit"], row["diagnostics"]) == ("tokens", [])


def test_a_score_answers_in_the_keys_that_the_page_names(capsys: Capsys, tmp_path: Path) -> None:
    rows = reference.runs("llama3_2024").to_dicts()
    path = tmp_path / "runs.csv"
    path.write_text(
        flops_fit.files.csv_text([{**r, "quiz": math.exp(-r["loss"])} for r in rows[::3]])
    )
    document = called(capsys, "metric", path, "quiz", "1e22", "--json").document
    assert set(document) == {"metric", "predictions"}
    assert all(keys("Each answer of `metric`", ". ") <= set(p) for p in document["predictions"])


def test_scarce_data_needs_a_law_of_repeats(capsys: Capsys) -> None:
    free, scarce = (
        called(capsys, "predict", "--law", "muennighoff2023", "1e22", *more, "--json").document
        for more in ((), ("--unique-tokens", "1e10"))
    )
    assert scarce["predictions"][0]["expected_loss"] > free["predictions"][0]["expected_loss"]
    told = called(capsys, "predict", "--law", "hoffmann2022", "1e22", "--unique-tokens", "1e10")
    assert told.code == 2
    assert "muennighoff2023" in told.err


def test_lines_of_optima_answer_what_they_know(capsys: Capsys) -> None:
    best = reference.law("llama3_2024").optimal(3.8e25)
    told = called(capsys, "predict", "--law", "llama3_2024", "3.8e25", "--json")
    assert told.document["predictions"][0]["optimal_params"] == pytest.approx(best.params)
    assert told.document["predictions"][0]["expected_loss"] is None
    refused = called(capsys, "predict", "--law", "llama3_2024", "1e24", "--max-params", "1e9")
    assert refused.code == 2
    assert "no loss" in refused.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["1e24"], "expected runs"),
        (["--law", "hoffman2022", "1e24"], "Did you mean 'hoffmann2022'?"),
        (["--law", "hoffmann2022"], "expected training FLOPs, such as 1e24, or --loss"),
        (["--law", "hoffmann2022", "1e24", "many"], "got 'many'"),
        (["--law", "hoffmann2022", "--", "-1"], "positive number"),
        (["--law", "hoffmann2022", "runs.csv", "1e24"], "needs no runs"),
        (["--law", "hoffmann2022", "1e24", "--level", "0.5"], "needs no runs"),
        (["--law", "hoffmann2022", "--loss", "1.5"], "its floor is E = 1.69"),
    ],
)
def test_questions_without_an_answer_are_refused(
    capsys: Capsys, arguments: list[str], words: str
) -> None:
    told = called(capsys, "predict", *arguments)
    assert told.code == 2
    assert words in told.err


def test_runs_answer_with_intervals(capsys: Capsys, table: Path) -> None:
    fit = flops_fit.fit_runs(table)
    told = called(capsys, "predict", table, "1e22", "--level", "0.5", "--loss", "0.7", "--json")
    expected = fit.predict(1e22, 0.5)
    (row,), (reached,) = told.document["predictions"], told.document["losses"]
    assert row["optimal_params"] == pytest.approx(expected.optimal_params)
    assert row["intervals"]["optimal_params"] == pytest.approx(
        list(expected.intervals["optimal_params"] or ())
    )
    low, high = row["intervals"]["run_loss"]
    assert [low, high] == pytest.approx(list(expected.intervals["run_loss"] or ()))
    assert (
        f"| {low:#.4g}–{high:#.4g} "
        in called(capsys, "predict", table, "1e22", "--level", "0.5").out
    )
    assert reached["value"] == pytest.approx(fit.compute_for(0.7).value)
    assert reached["interval"][0] < reached["value"] < reached["interval"][1]


def test_a_recipe_against_itself_needs_the_same_compute(
    capsys: Capsys, table: Path, tmp_path: Path
) -> None:
    page = tmp_path / "compared.html"
    told = called(capsys, "compare", table, table, "--at", "1e21", "--report", str(page), "--json")
    assert told.code == 0
    assert told.document["compute_multiplier"] == pytest.approx(1)
    assert told.document["compute"] == 1e21
    assert "The runs do not decide which needs less compute" in page.read_text()


def test_runs_to_make_fit_into_what_may_be_spent(
    capsys: Capsys, table: Path, tmp_path: Path
) -> None:
    options = [
        "--target",
        "1e24",
        "--spend",
        "1e22",
        "--batch",
        "4",
        "--csv",
        tmp_path / "next.csv",
    ]
    told = called(capsys, "next", table, *options, "--json")
    rows = list(csv.DictReader((tmp_path / "next.csv").read_text().splitlines()))
    assert len(rows) == len(told.document["runs"]) <= 4
    assert sum(float(row["flops"]) for row in rows) == pytest.approx(told.document["cost"])
    assert told.document["cost"] <= 1e22
    assert told.document["half_width_after"] < told.document["half_width_now"]


def test_a_report_lies_in_the_folder_of_its_sweep(capsys: Capsys, folder: Path) -> None:
    told = called(capsys, "report", folder)
    assert told.out.splitlines()[0] == f"Report: {folder / 'report.html'}"
    assert 'id="runs-head">Runs</h2>' in (folder / "report.html").read_text()


def test_an_export_is_a_table_to_fit(capsys: Capsys, folder: Path, tmp_path: Path) -> None:
    assert called(capsys, "export", folder, tmp_path / "all.csv").out.startswith("28 runs: ")
    table, own = (
        called(capsys, "predict", source, "3e10", "--json").document["predictions"][0]
        for source in (tmp_path / "all.csv", folder)
    )
    assert table["optimal_params"] == pytest.approx(own["optimal_params"])


def test_every_reference_is_listed_and_shown_with_its_source(capsys: Capsys) -> None:
    listed = called(capsys, "reference", "list").out
    for name in (*reference.LAW_NAMES, *reference.RUN_NAMES):
        assert name in listed
        assert "Source: " in called(capsys, "reference", "show", name).out
    both = called(capsys, "reference", "show", "llama3_2024", "--json").document
    assert both["law"]["params"]["b"] == 0.537
    assert len(both["runs"]["rows"]) == 133
    told = called(capsys, "reference", "show", "hoffmann2022", "--csv")
    assert told.code == 2
    assert "hoffmann2022 is a law" in told.err


def test_the_doctor_says_what_is_wrong_in_json_too(
    capsys: Capsys, folder: Path, tmp_path: Path
) -> None:
    assert called(capsys, "doctor", folder, "--json").document["sound"] is True
    fit = folder / "fit.json"
    kept = fit.read_bytes()
    fit.write_text("{")
    told = called(capsys, "doctor", folder, "--json")
    assert told.code == 1
    assert told.document["findings"][0]["path"] == "fit.json"
    mended = called(capsys, "doctor", folder, "--repair", "--json")
    assert mended.code == 0
    assert mended.document["repaired"] == ["fit.json"]
    fit.write_bytes(kept)


def test_where_there_is_no_interval_that_is_said(
    capsys: Capsys, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose = flops_fit.adaptive.next_experiments

    def unsure(*args: object, **options: object) -> object:
        return replace(propose(*args, **options), now=math.inf, after=math.inf)  # type: ignore[arg-type]

    monkeypatch.setattr(flops_fit.adaptive, "next_experiments", unsure)
    options = ["--target", "1e23", "--spend", "3e21", "--batch", "2"]
    assert (
        "FLOPs: none now, about none with these runs" in called(capsys, "next", table, *options).out
    )
    assert called(capsys, "next", table, *options, "--json").document["half_width_now"] is None


def test_groups_of_a_table_are_answered_one_by_one(capsys: Capsys, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    web = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
    rows = []
    for name, law in (("web", web), ("code", replace(web, E=1.1))):
        table = RunTable.read(sweep(law, sd=0.002))
        rows += [{**row, "corpus": name} for row in table.to_dicts()]
    path.write_text("\n".join(map(json.dumps, rows)))
    told = called(capsys, "fit", path, "--group", "corpus", "--predict", "1e21", "--json")
    assert told.code == 0
    assert told.document["fit"]["shared"]["alpha"] == pytest.approx(0.35, abs=0.05)
    assert told.document["predictions"].keys() == {"web", "code"}
    assert told.document["report"] is None
    assert {"shared", "p_value", "diagnostics"} <= set(told.document["fit"])
    for name, fit in told.document["fit"]["groups"].items():
        assert keys("The key `fit`", ".") <= set(fit)
        (row,) = told.document["predictions"][name]
        assert keys("Each of `predictions`") <= set(row)
    far = called(capsys, "fit", path, "--group", "corpus", "--predict", "1e40")
    assert (far.code, far.out.count("[critical] the target's compute is")) == (1, 2)
    refused = called(capsys, "fit", path, "--group", "corpus", "--report", tmp_path / "page.html")
    assert refused.code == 2
    assert "no --report with --group" in refused.err


@pytest.mark.parametrize(
    "words",
    [["fit"], ["predict", "1e9"], ["report"], ["doctor"], ["export", "x.csv"], ["init"], ["plan"]],
)
def test_a_path_that_no_system_takes_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """File systems take 255 bytes a name; asking for such a file is an error, too."""
    told = called(capsys, words[0], "x" * 300, *words[1:])
    assert told.code in (1, 2)
    assert "xxx" in told.err
    assert "OSError" not in told.err
    assert len(told.err.splitlines()) == 1


def test_where_a_run_will_end_is_told_from_its_curve_or_its_sweep(
    capsys: Capsys, tmp_path: Path
) -> None:
    """A run that has ended is told of no more."""
    curve, folder = tmp_path / "log.csv", tmp_path / "sweep"
    points = [(step, 2 + 20 * step**-0.5) for step in range(10, 810, 10)]
    curve.write_text("step,loss\n" + "\n".join(f"{step},{loss}" for step, loss in points))
    options = ["--schedule", "wsd", "--end", "1000", "--prior", str(curve)]
    told = called(capsys, "forecast", str(curve), *options, "--json").document
    again = flops_fit.forecast(str(curve), "wsd", end=1000, prior=[(str(curve), "wsd")])
    assert told["value"] == pytest.approx(again.value)
    assert called(capsys, "forecast", str(curve), *options).out == f"{again}\n"

    going, done = (make_experiment(steps=1000, seed=seed) for seed in (1, 2))
    store = Store.open(folder)
    store.write_plan([going, done])
    store.publish(Run(done, "completed", loss=2.5))
    for experiment in (going, done):
        store.run_dir(experiment.id).mkdir(parents=True, exist_ok=True)
        lines = "\n".join(json.dumps({"step": step, "loss": loss}) for step, loss in points)
        (store.run_dir(experiment.id) / "metrics.jsonl").write_text(lines)
    out = called(capsys, "forecast", str(folder)).out
    assert out.startswith(f"{going.label}: expected 2.")
    assert out.count("expected") == 1


def test_what_an_axis_does_is_told_beside_the_law(capsys: Capsys, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    runs = reference.runs("llama3_2024").to_dicts()
    rows = [
        {**row, "kind": "ab"[i % 2], "loss": row["loss"] * (1 + 0.01 * (i % 2))}
        for i, row in enumerate(runs)
    ]
    path.write_text(flops_fit.files.csv_text(rows))
    words = called(capsys, "fit", str(path), "--axis", "kind").out
    assert "\nkind: best a at " in words
    assert "p < 0.001" in words


def test_a_score_is_predicted_as_by_the_library(capsys: Capsys, tmp_path: Path) -> None:
    runs = sweep(Hoffmann(1.7, 400.0, 1100.0, 0.34, 0.34), (1e18, 4e18, 2e19, 1e20), 5, sd=0.003)
    runs["quiz"] = [0.25 + 0.75 / (1 + math.exp(4 * (loss - 2.6))) for loss in runs["loss"]]
    path = tmp_path / "runs.csv"
    path.write_text(flops_fit.RunTable.read(runs, metrics=["quiz"]).to_pandas().to_csv(index=False))
    told = called(capsys, "metric", path, "quiz", "1e21", "--chance", "0.25", "--json")
    (row,) = told.document["predictions"]
    expected = flops_fit.fit.metric(path, "quiz", chance=0.25).predict(1e21)
    assert row["value"] == pytest.approx(expected.value)
    assert row == json.loads(json.dumps(expected.to_dict()))
    assert (
        f"| answer    | {expected.value:.3f}"
        in called(capsys, "metric", path, "quiz", "1e21", "--chance", "0.25").out
    )


@pytest.mark.parametrize("command", [("fit", "-"), ("predict", "-", "1e22")])
def test_a_minus_reads_standard_input(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch, table: Path, command: tuple[str, ...]
) -> None:
    """Also packed; an error names it, and no file of its own."""
    direct = called(capsys, *[table if word == "-" else word for word in command])
    for content in (table.read_bytes(), gzip.compress(table.read_bytes())):
        assert _fed(content, *command) == (direct.code, direct.out, "")
    code, out, err = _fed(b"\x28\xb5\x2f\xfd", *command)
    assert (code, out) == (2, "")
    assert err == (
        "flops-fit: expected a table of runs; standard input is compressed by Zstandard. Unpack it first.\n"
    )


def _fed(content: bytes, *words: str) -> tuple[int, str, str]:
    line = [sys.executable, "-m", "flops_fit", *words]
    done = subprocess.run(line, input=content, capture_output=True)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_what_is_typed_in_another_order_is_understood(capsys: Capsys, table: Path) -> None:
    """The FLOPs first; a table alone; the law by the name of its model; FLOPs in one list."""
    assert called(capsys, "predict", "1e20", table) == called(capsys, "predict", table, "1e20")
    assert called(capsys, table) == called(capsys, "fit", table)
    named = called(capsys, "predict", "--law", "chinchilla", "1e22")
    assert named == called(capsys, "predict", "--law", "hoffmann2022", "1e22")
    told = called(capsys, "fit", table, "--predict", "1e20,1e21")
    assert "got '1e20,1e21'. Give one at a time, as often as you like." in told.err
    assert "got neither." in called(capsys, "predict", "1e20").err


@pytest.mark.parametrize(
    "command",
    [("doctor",), ("fit",), ("predict",), ("report",), ("collect",), ("export",), ("forecast",)],
)
def test_a_folder_that_is_none_of_a_sweep_is_named_as_it_was_typed(
    capsys: Capsys, tmp_path: Path, folder: Path, command: tuple[str, ...]
) -> None:
    """By no name of an argument in Python; the sweep inside it is proposed. It is an input."""
    rest = {"export": [tmp_path / "runs.csv"], "predict": ["1e20"]}.get(command[0], [])
    told = called(capsys, *command, tmp_path, *rest)
    assert told.code == 2
    assert told.err.startswith(f"flops-fit: {tmp_path} has no sweep.json. Expected the folder of")
    told = called(capsys, *command, folder.parent, *rest)
    assert f"Did you mean {folder}?" in told.err
    told = called(capsys, *command, tmp_path / "nosuch", *rest)
    assert (told.code, told.out) == (2, "")
    (tmp_path / "sweep.json").write_text("{}")
    assert called(capsys, *command, tmp_path, *rest).code == 2


def test_a_law_of_experts_answers_under_a_cap_on_memory(capsys: Capsys, tmp_path: Path) -> None:
    """``fit`` and ``predict`` say what the library says; another law refuses the cap."""
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, ["params", "active_params", "tokens", "loss", "experts"])
        table.writeheader()
        table.writerows(rows(0.003))
    asked = ("--law", "experts", "--max-total-params", "4B")
    best = flops_fit.fit_runs(str(path), "experts").best_experts(1e20, 4e9)
    for words in (("fit", str(path), "--predict", "1e20"), ("predict", str(path), "1e20")):
        (told,) = called(capsys, *words, *asked, "--json").document["experts"]
        assert told["rows"][-1]["total_params"] == pytest.approx(4e9)
        assert told["rows"][-1]["loss"] == pytest.approx(best.best.loss)
        assert "Best: N_active = " in called(capsys, *words, *asked).out
    refused = called(capsys, "predict", str(path), "1e20", "--max-total-params", "4B")
    assert (refused.code, "--law experts" in refused.err) == (2, True)
    law = called(capsys, "predict", "--law", "hoffmann2022", "1e20", "--max-total-params", "4B")
    assert (law.code, "published law" in law.err) == (2, True)


def test_a_law_of_steps_answers_at_a_given_batch(capsys: Capsys, tmp_path: Path) -> None:
    """With the best batch of each length below, and up to which one its loss is nearly kept."""
    path = tmp_path / "runs.csv"
    runs = batches()
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([runs, *zip(*runs.values(), strict=True)])
    fit = flops_fit.fit_runs(str(path), "steps").with_batch(3e7)
    asked = ("fit", path, "--law", "steps", "--predict", "1e20", "--batch", "30M")
    (told,) = called(capsys, *asked, "--json").document["predictions"]
    assert told["optimal_params"] == pytest.approx(fit.predict(1e20).optimal_params)
    shown = called(capsys, *asked).out
    best = fit.estimate(lambda law: law.best_batch(told["optimal_tokens"]))
    assert f"| 1e+20 | {format_count(best.value)} (" in re.sub(" +", " ", shown)
    assert "Loss within 1 % up to" in shown
    refused = called(capsys, "fit", path, "--batch", "30M")
    assert (refused.code, "expected a law of steps" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fit", "--share", "alpha"), "--share: expected --group"),
        (("fit", "--group", "x", "--axis", "y"), "no --axis"),
        (("fit", "--group", "x", "--max-total-params", "4B"), "no --max-total-params"),
        (("fit", "--group", "x", "--batch", "1M"), "no --batch"),
        (("metric", "loss", "1e21"), "give --kind loss for a loss"),
        (("forecast", "--schedule", "Linear", "--end", "9"), "--schedule: expected one of"),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    capsys: Capsys, table: Path, words: tuple[str, ...], said: str
) -> None:
    command, *options = words
    if command == "forecast":
        table = table.with_name("curve.csv")
        table.write_text(
            "\n".join(["_step,train/loss", *(f"{i},{3 - i / 99}" for i in range(1, 9))])
        )
    told = called(capsys, command, table, *options)
    assert (told.code, told.out) == (2, "")
    assert said in told.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--gate", "5"), "--gate: expected a share"),
        (("--speeds", "0", "1"), "--speeds: expected a positive number"),
        (("--dollars-per-hour", "2", "3"), "--dollars-per-hour: expected speeds"),
    ],
)
def test_comparisons_name_their_options(
    capsys: Capsys, table: Path, options: tuple[str, ...], said: str
) -> None:
    told = called(capsys, "compare", table, table, *options)
    assert told.code == 2
    assert said in told.err
    assert "speeds=" not in told.err


def test_an_answer_far_beyond_the_runs_is_not_relied_on_by_any_command(
    capsys: Capsys, table: Path, tmp_path: Path
) -> None:
    """At a thousand times the largest run; at ten times it is done."""
    scored = tmp_path / "scored.csv"
    rows = reference.runs("llama3_2024").to_dicts()
    scores = ({"quiz": 0.25 + 0.75 / (1 + math.exp(8 * (row["loss"] - 0.7)))} for row in rows)
    scored.write_text(
        flops_fit.files.csv_text([{**r, **s} for r, s in zip(rows, scores, strict=True)])
    )
    for C, code in (("9e22", 0), ("1e25", 1)):
        for words in (
            ("predict", table, C),
            ("compare", table, table, "--at", C),
            ("metric", scored, "quiz", C, "--chance", "0.25"),
            ("next", table, "--target", C, "--spend", "1e22"),
        ):
            told = called(capsys, *words)
            assert told.code == code, words
            assert ("[critical]" in told.out or "Do not rely" in told.out) == bool(code)


def test_a_column_that_is_not_there_is_said_to_be_missing(
    capsys: Capsys, table: Path, tmp_path: Path
) -> None:
    """Beside those that there are, if there are any."""
    split = tmp_path / "split.csv"
    rows = reference.runs("llama3_2024").to_dicts()
    split.write_text(
        flops_fit.files.csv_text([{**r, "corpus": "ab"[i % 2]} for i, r in enumerate(rows)])
    )
    for path, words in ((table, "no such column."), (split, "'corpus'. Did you mean 'corpus'?")):
        for flag in ("--axis", "--group"):
            told = called(capsys, "fit", path, flag, "corpsu")
            assert (told.code, told.out) == (2, "")
            assert told.err.startswith(f"flops-fit: {flag}")
            assert f"the table has {words}" in told.err


def test_a_spend_that_buys_no_run_names_its_option(capsys: Capsys, table: Path) -> None:
    told = called(capsys, "next", table, "--target", "1e23", "--spend", "1e10")
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("flops-fit: --spend: expected runs of ")


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "runs.csv", "--report", "no/x.html"),
        ("report", "runs.csv", "--output", "no/x.html"),
        ("compare", "runs.csv", "runs.csv", "--report", "no/x.html"),
        ("next", "runs.csv", "--target", "1e23", "--spend", "1e22", "--csv", "no/x.csv"),
        ("metric", "runs.csv", "quiz", "--plot", "no/x.png"),
        ("plan", "--csv", "no/x.csv"),
        ("export", "outputs", "no/x.csv"),
    ],
)
def test_where_an_output_goes_is_looked_at_before_any_work(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """No file that is read is there either: that would be told next."""
    monkeypatch.chdir(tmp_path)
    told = called(capsys, *words)
    assert (told.code, told.out) == (2, "")
    flag = "TABLE" if words[0] == "export" else words[-2]
    start = f"flops-fit: {flag}: expected a file to write; got {words[-1]}: there is no folder no."
    assert told.err.startswith(start)
    (tmp_path / "no" / "x.csv").mkdir(parents=True)
    assert "it is a folder" in called(capsys, *words[:-1], "no").err


def test_every_file_that_a_command_writes_is_looked_at_first() -> None:
    """Options in words such as "Write" have the callback that does."""
    writes = {
        param
        for info in app.registered_commands
        for param in inspect.signature(info.callback, eval_str=True).parameters.values()  # type: ignore[arg-type]
        for about in getattr(param.annotation, "__metadata__", ())
        if re.match("Draw|Write (the|an)|Where to write[.:]", about.help or "")
    }
    assert {param.name for param in writes} == {"report", "output", "out", "plot", "table"}
    for param in writes:
        assert param.annotation.__metadata__[0].callback is output


def test_an_answer_is_not_lost_with_its_file(capsys: Capsys, table: Path) -> None:
    """A full disk is told after it."""
    asked = ("next", table, "--target", "1e23", "--spend", "1e22")
    plain = called(capsys, *asked)
    full = called(capsys, *asked, "--csv", "/dev/full")
    assert full.out == plain.out
    assert full.code == 1
    assert full.err.startswith("flops-fit: --csv: /dev/full cannot be written (No space left")
    document = called(capsys, "report", table, "--output", "/dev/full", "--json").document
    assert document["report"] is None
    assert document["predictions"]
