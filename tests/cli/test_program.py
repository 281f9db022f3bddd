"""What holds for all commands: JSON, exit codes, errors of one line, pipes, start-up."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.core
import typer.main

import flops_fit
from flops_fit.cli.answer import WORDS, examples, in_options
from flops_fit.cli.program import PIPE_CLOSED, app
from tests.cli._calls import called
from tests.test_package import WITHOUT_TORCH

Capsys = pytest.CaptureFixture[str]


def python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )


def test_every_command_offers_json_and_says_its_exit_codes(capsys: Capsys) -> None:
    commands = [[info.name] for info in app.registered_commands]
    commands += [["reference", "list"], ["reference", "show"]]
    assert len(commands) == 16
    for command in commands:
        help_ = called(capsys, *command, "--help")
        assert help_.code == 0
        assert "--json" in help_.out, command
        if command[0] != "reference":
            assert "Exit codes: 0 done" in help_.out, command


def test_help_names_no_types_of_python(capsys: Capsys) -> None:
    for command in ([], ["fit"], ["predict"], ["reference", "show"]):
        shown = called(capsys, *command, "--help").out
        assert not [word for word in ("bool", "list[", "path>") if word in shown], command


def test_chinchilla_with_a_number_is_the_law_of_its_paper(capsys: Capsys) -> None:
    said = called(capsys, "chinchilla", "1e21", "--json")
    assert said.code == 0
    assert said.document["law"]["name"] == "hoffmann2022"


def test_without_a_command_there_is_help(capsys: Capsys) -> None:
    assert "flops-fit fit" in called(capsys, "chinchilla", "-h").out  # as it is looked for
    for arguments, word in (((), "predict"), (("reference",), "show")):
        told = called(capsys, *arguments)
        assert (told.code, told.err) == (0, "")
        assert word in told.out


def test_help_imports_nothing_heavy() -> None:
    heavy = (
        "('torch', 'numpy', 'scipy', 'matplotlib', 'narwhals', 'flops_fit.api', 'flops_fit.fit')"
    )
    code = (
        "import sys\nfrom flops_fit.cli.program import call\ncall(sys.argv[1:])\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    for arguments in (["--help"], ["run", "--help"], ["fit", "--help"], ["--version"]):
        done = python(code, *arguments)
        assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_completion_of_the_shell_knows_the_commands() -> None:
    words = {"COMP_WORDS": "flops-fit re", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "flops_fit"],
        env={**os.environ, "_FLOPS_FIT_COMPLETE": "complete_bash", **words},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["report", "reference"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "{table}"],
        ["fit", "{folder}"],
        ["predict", "--law", "hoffmann2022", "1e24", "--loss", "2"],
        ["predict", "--law", "kaplan2020", "1e24"],
        ["predict", "{table}", "1e22", "--loss", "0.7", "--inference-tokens", "1e12"],
        ["predict", "{folder}", "1e11"],
        ["compare", "{table}", "{folder}"],
        ["next", "{table}", "--target", "1e24", "--spend", "1e22"],
        ["report", "{table}", "--output", "{tmp}/page.html"],
        ["doctor", "{folder}"],
        ["export", "{folder}", "{tmp}/all.csv"],
        ["init", "{tmp}/new"],
        ["reference", "list"],
        ["reference", "show", "llama3_2024"],
        ["reference", "show", "marin2026_dclm", "--csv"],
    ],
    ids=lambda a: " ".join(a),
)
def test_json_is_one_document_and_all_there_is(
    capsys: Capsys, tmp_path: Path, table: Path, folder: Path, arguments: list[str]
) -> None:
    names = {"table": table, "folder": folder, "tmp": tmp_path}
    told = called(capsys, *(a.format(**names) for a in arguments), "--json")
    assert told.code in (0, 1), told.err
    assert isinstance(told.document, dict)
    assert told.err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fitt"], "No such command 'fitt'"),
        (["fit"], "Missing argument 'RUNS'"),
        (["fit", "none.csv"], "does not exist"),
        (["demo", "--wrokers", "2"], "No such option: --wrokers"),
        (["next", "none.csv", "--target", "much", "--spend", "1"], "positive number such as 1e21"),
        (["reference", "show", "hoffman2022"], "Did you mean 'hoffmann2022'?"),
        (["export", "{tmp}", "all.csv"], "has no sweep.json"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, list) else "",
)
def test_an_error_is_one_line_on_standard_error(
    capsys: Capsys, tmp_path: Path, arguments: list[str], words: str
) -> None:
    told = called(capsys, *(a.format(tmp=tmp_path) for a in arguments))
    assert told.code == 2
    assert told.out == ""
    assert told.err.startswith("flops-fit: ")
    assert len(told.err.splitlines()) == 1
    assert words in told.err


def test_an_error_on_a_terminal_breaks_between_words(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    told = called(capsys, "fit", "/nowhere/" + "a" * 30 + ".csv").err
    assert max(map(len, told.splitlines())) <= 60
    assert len(told.splitlines()) > 1


def test_debug_shows_where_an_error_comes_from_in_any_place(capsys: Capsys) -> None:
    for arguments in (["--debug", "fit", "none.csv"], ["fit", "none.csv", "--debug"]):
        told = called(capsys, *arguments)
        assert told.code == 2
        assert "Traceback" in told.err


def test_an_error_that_nobody_expected_is_one_line_too(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr("flops_fit.cli.answer.read_fit", broken)
    told = called(capsys, "fit", "none.csv")
    assert told.code == 1
    assert told.err == "flops-fit: ZeroDivisionError: a (--debug shows where)\n"


@pytest.mark.parametrize("name", [c.name for c in app.registered_commands])
def test_the_help_of_a_command_shows_calls_that_it_takes(capsys: Capsys, name: str) -> None:
    """Each is parsed by the command itself."""
    shown = " ".join(called(capsys, name, "--help").out.split())
    command = typer.main.get_command(app)
    assert isinstance(command, typer.core.TyperGroup)
    for example in examples(name):
        assert example in shown
        command.commands[name].make_context(name, shlex.split(example)[2:])


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("fit_runs(..., group='corpus') gives each its own", "--group corpus gives each its own"),
        ('Fit with law="muennighoff".', "Fit with --law muennighoff."),
        ("columns={'loss': 'C4 loss'}", "--column 'loss=C4 loss'"),
        ("share=: expected some of", "--share: expected some of"),
        ("it takes ['seed', 'mode']", "it takes seed, mode"),
        ('tune="per-size"', "--set tune=per-size"),
        ("such as device='H100', or give dataset=.", "such as --on H100, or give --dataset."),
    ],
)
def test_a_terminal_names_its_options(said: str, shown: str) -> None:
    """In place of Python's arguments."""
    assert in_options(said).replace("'corpus'", "corpus") == shown


SOURCE = Path(flops_fit.__file__).parent
MADE = {  # of names that a check is given, and of paths
    "^target: expected one of csv": "target: expected one of csv, bash; got 'nosuch'.",
    r"^(design|executor|mode)\.kind: ": "executor.kind: expected one of ['pool']; got 'pol'.",
    r"\bgot None\.": "dataset: expected data; got None.",
    r"\S+/flops-fit-\w+/stdin": "/tmp/flops-fit-x1/stdin has no line",
    "^target_compute: ": "target_compute: expected a positive number; got -1.",
}


def said_by_the_library() -> Iterator[str]:
    """All texts of the source and of the words of findings, with an x for what is filled in."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    getattr(part, "value", "x") if isinstance(part, ast.Constant) else "x"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    for path in SOURCE.rglob("findings.toml"):
        for words in tomllib.loads(path.read_text(encoding="utf-8")).values():
            yield from (words["message"], words.get("action", ""))


def test_each_pattern_of_options_is_of_something_that_the_library_says() -> None:
    """A pattern that nothing matches leaves the name of an argument in a message."""
    said = list(said_by_the_library())
    for pattern in WORDS["in_options"]:
        texts = [MADE[pattern]] if pattern in MADE else said
        changed = [text for text in texts if re.search(pattern, text)]
        assert changed, pattern
        assert any(in_options(text) != text for text in changed), pattern
    listed = in_options("target: expected one of ['csv', 'bash']; got 'nosuch'.")
    assert listed == "--export: expected one of csv, bash; got 'nosuch'."


@pytest.mark.parametrize("error", [KeyboardInterrupt, typer.Abort])
def test_an_interruption_is_exit_code_130(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("flops_fit.cli.answer.read_fit", interrupted)
    told = called(capsys, "fit", "none.csv", "--json")
    assert (told.code, told.out, told.err) == (130, "", "flops-fit: interrupted.\n")


def test_an_answer_not_to_be_relied_on_is_exit_code_1(capsys: Capsys, table: Path) -> None:
    near, far = (called(capsys, "predict", table, C) for C in ("2e22", "1e28"))
    assert near.code == 0
    assert far.code == 1
    assert "Do not rely on this answer" in far.out


def test_a_reader_that_goes_away_is_no_error(table: Path) -> None:
    """The pipe is closed before anything is written to it."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "flops_fit", "reference", "list"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == PIPE_CLOSED
    assert done.stderr == ""


def test_json_keeps_standard_output_clean_of_what_users_print(tmp_path: Path) -> None:
    """By Python, by the system below it, and by a process that was started."""
    (tmp_path / "noisy.py").write_text(
        "import os, subprocess\nprint('loud')\nos.write(1, b'louder\\n')\n"
        "subprocess.run(['echo', 'loudest'])\n"
        "from tests.conftest import MLP as Noisy\n"
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "flops_fit", "plan", "--model-cls", "noisy.py:Noisy", "--mode", "mock",
            "--model-size-param", "width", "--compute-budgets", "1e9,3e9", "--json",
        ],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")
    assert flops_fit.SweepPlan.from_json(done.stdout).budgets == pytest.approx((1e9, 3e9), rel=0.01)
    for word in ("loud", "louder", "loudest"):
        assert word in done.stderr.split()


def test_answers_from_runs_need_no_torch(table: Path, folder: Path, tmp_path: Path) -> None:
    code = WITHOUT_TORCH + (
        "from flops_fit.cli.program import call\n"
        "table, folder, tmp = sys.argv[1:]\n"
        "for line in (f'fit {table}', f'predict {table} 1e22', f'predict {folder} 1e11',\n"
        "             'predict --law hoffmann2022 1e24', f'compare {table} {table}',\n"
        "             f'next {table} --target 1e24 --spend 1e22', f'export {folder} {tmp}/a.csv',\n"
        "             f'report {table} --output {tmp}/page.html', 'reference list',\n"
        "             'reference show llama3_2024', f'doctor {folder}'):\n"
        "    code = call(line.split())\n"
        "    assert code in (0, 1), (line, code)\n"
        "assert 'torch' not in sys.modules\n"
        "print('all answered')"
    )
    done = python(code, table, folder, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all answered\n")
    assert done.stderr == ""
