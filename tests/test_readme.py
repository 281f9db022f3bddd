"""What the README shows works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (output,) = re.findall(r"```output\n(.*?)```", README, re.DOTALL)
    assert output in done.stdout
    assert 1e7 < float(done.stdout.splitlines()[-1]) < 1e9


def test_the_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(
        r"(?:^|`)make ([\w-]+)", README + (ROOT / "CONTRIBUTING.md").read_text(), re.M
    ):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_and_pictures_exist() -> None:
    pages = [p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts]
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), (document.name, target)
