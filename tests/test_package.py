"""The package keeps its promises about names and imports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import flops_fit

WITHOUT_TORCH = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Absent())
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_importing_needs_neither_torch_nor_matplotlib_nor_scipy() -> None:
    heavy = "'torch', 'matplotlib', 'scipy', 'pandas', 'rich', 'typer', 'plotly', 'narwhals'"
    code = f"import sys, flops_fit; print([m for m in ({heavy}) if m in sys.modules])"
    assert run(code) == "[]"


def test_fitting_a_table_needs_no_torch() -> None:
    code = WITHOUT_TORCH + (
        "import flops_fit\n"
        "fit = flops_fit.fit_runs(flops_fit.reference.runs('llama3_2024'))\n"
        "print(round(fit.predict(1e24).optimal_params / 1e9) > 1)"
    )
    assert run(code) == "True"


def test_planning_known_sizes_needs_no_torch() -> None:
    code = WITHOUT_TORCH + (
        "import flops_fit\n"
        "sizes = flops_fit.ModelSizes(lambda size: 12 * size**2)\n"
        "task = flops_fit.CommandTask('train {size}')\n"
        "print(len(flops_fit.plan_sweep(sizes, compute_budgets=[1e12], mode=task)))"
    )
    assert run(code) == "7"


def test_planning_without_torch_names_the_extra() -> None:
    code = WITHOUT_TORCH + (
        "import flops_fit\n"
        "try: flops_fit.plan_sweep(lambda d: d, 'd', compute_budgets=[1e9])\n"
        "except ImportError as error: print(error)"
    )
    assert 'pip install "flops-fit[train]"' in run(code)


def test_the_demo_without_torch_is_one_line() -> None:
    code = WITHOUT_TORCH + (
        "import sys\n"
        "sys.argv = ['flops-fit', 'demo', '--output-dir', 'unused']\n"
        "from flops_fit.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith('pip install "flops-fit[demo]"')
    assert "Traceback" not in done.stderr


def test_every_public_name_exists_and_is_documented() -> None:
    for name in flops_fit.__all__:
        thing = getattr(flops_fit, name)
        if name != "__version__":
            assert thing.__doc__, name


@pytest.mark.parametrize(
    "name", ["find_optimal", "SweepPlan", "Experiment", "plan_sweep", "Result"]
)
def test_the_contract_keeps_its_names(name: str) -> None:
    assert name in flops_fit.__all__


def test_errors_are_drawn_in_their_docstring() -> None:
    for name in flops_fit.errors.__all__:
        assert name in flops_fit.errors.__doc__
        assert issubclass(getattr(flops_fit.errors, name), flops_fit.errors.FlopsFitError)


def test_the_citation_and_the_workflows_are_of_this_version() -> None:
    """What CI calls are targets of the Makefile."""
    root = Path(__file__).parents[1]
    assert f"\nversion: {flops_fit.__version__}\n" in (root / "CITATION.cff").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.M))
    workflows = [path.read_text() for path in (root / ".github" / "workflows").glob("*.yml")]
    calls = [line.split() for text in workflows for line in re.findall("make (.*) PYTHON", text)]
    assert len(calls) >= 6
    assert {target for call in calls for target in call} <= targets
