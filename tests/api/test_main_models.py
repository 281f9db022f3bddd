"""Models, data and losses of a script's ``__main__`` or of a notebook train in every executor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flops_fit.fingerprint import fingerprint_code, has_source
from flops_fit.model import ModelSpec
from tests._scripts import Scripts

CODE = """
import json, sys
import torch
from torch import nn
import flops_fit

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.up, self.down = nn.Linear(16, width), nn.Linear(width, 4)
    def forward(self, x):
        return self.down(torch.relu(self.up(x)))

class Data(torch.utils.data.Dataset):
    def __init__(self):
        self.x = torch.randn(600, 16, generator=torch.Generator().manual_seed(0))
    def __len__(self):
        return 600
    def __getitem__(self, i):
        return self.x[i] + 0.01 * torch.randn(16), self.x[i, :4].argmax()

def loss(logits, targets):
    return nn.functional.cross_entropy(logits, targets)

if __name__ == "__main__":
    torch.set_num_threads(1)
    plan = flops_fit.plan_sweep(
        Net, "width", None, Data(), loss, [6e5], sizes=[4, 8], batch_size=8
    )
    pool = flops_fit.execute.PoolExecutor(2, 1)
    told = {{}}
    for name, executor in {runs}:
        out = sys.argv[1] + "/" + name
        runs = flops_fit.run_sweep(
            plan, executor=executor, output_dir=out, progress=False
        )
        told[name] = [[r.state, r.loss, r.reason] for r in runs]
    told["ids"] = [e.id for e in plan.experiments]
    told["codes"] = [d.code for d in plan.diagnostics]
    print(json.dumps(told))
"""


BOTH = '(("inprocess", "inprocess"), ("pool", pool))'


def run(scripts: Scripts, tmp_path: Path, *how: object) -> dict:
    tmp_path.mkdir(exist_ok=True)
    done = scripts.run(*how, tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_script_trains_its_own_classes_in_both_executors(
    tmp_path: Path, scripts: Scripts
) -> None:
    script = tmp_path / "script.py"
    script.write_text(CODE.format(runs=BOTH))
    told = run(scripts, tmp_path / "out", script)
    assert [state for state, _, _ in told["pool"]] == ["completed", "completed"]
    assert told["pool"] == told["inprocess"]
    assert "no_source" not in told["codes"]


def test_code_without_a_file_trains_in_both_executors_and_is_found_again(
    tmp_path: Path, scripts: Scripts
) -> None:
    first = run(scripts, tmp_path / "a", "-c", CODE.format(runs=BOTH))
    assert [state for state, _, _ in first["pool"]] == ["completed", "completed"]
    assert first["pool"] == first["inprocess"]
    assert "no_source" in first["codes"]
    again = run(scripts, tmp_path / "b", "-c", CODE.format(runs="()"))
    assert again["ids"] == first["ids"]


METHODS = """
import functools
from torch import nn
class Net(nn.Module):
    factor = {factor}
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(16, width)
    @property
    def twice(self):
        return {twice}
    @staticmethod
    def helper(x):
        return (lambda y: y * {inner})(x)
    def forward(self, x, scale={default}):
        return self.linear(x) * scale
def factory(width):
    return [Net(width) for _ in range(1)][0]
"""


def made(**changes: float) -> dict:
    values = {"factor": 1, "twice": 2, "inner": 3, "default": 4} | changes
    namespace: dict = {}
    exec(compile(METHODS.format(**values), "<cell>", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("name", ["Net", "factory"])
def test_without_source_bytecode_tells_changes(name: str) -> None:
    plain = made()
    assert not has_source(plain[name])
    assert fingerprint_code(plain[name]) == fingerprint_code(made()[name])
    assert ModelSpec(plain[name], "width").fingerprint(4)


@pytest.mark.parametrize("change", ["factor", "twice", "inner", "default"])
def test_every_method_of_a_class_without_source_counts(change: str) -> None:
    assert fingerprint_code(made()["Net"]) != fingerprint_code(made(**{change: 9})["Net"])


def test_what_has_a_source_is_known() -> None:
    assert has_source(ModelSpec)
    assert has_source(run)
    assert has_source(ModelSpec(run).build)
