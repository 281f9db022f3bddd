"""The demo on images, in miniature: synthetic images in the package's own files."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flops_fit import Result
from flops_fit.cli import sweep_commands
from flops_fit.cli.answer import read_fit
from flops_fit.cli.program import as_text
from flops_fit.examples import VisionTransformer, fashion_sweep, vit_loss_fn
from tests.cli._calls import called


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 and 100 noisy images of ten kinds, each with a brighter row of its own."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", 400), ("t10k", 100)):
        labels = np.arange(count) % 10
        pixels = rng.integers(0, 160, (count, 28, 28))
        pixels[np.arange(count), 2 * labels + 4] += 90
        for name, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
            content = gzip.compress(head + values.astype(np.uint8).tobytes(), 1)
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(content)
    return folder


def test_the_demo_on_images_trains_checks_itself_and_says_how_far_to_trust_it(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Unique images are counted, and the answer is the same from the folder and from runs.csv."""
    monkeypatch.setattr(Result, "plot", lambda self, show=True: [])
    results: list[Result] = []
    monkeypatch.setattr(Result, "report", lambda self: results.append(self))
    sizes = {c: [4, 6, 8] for c in (3e7, 6e7, 1.2e8)}
    answer = sweep_commands.run_demo(tmp_path, 1, fashion_sweep(folder, sizes) | {"design": "grid"})
    told, (result,) = capfd.readouterr().out + as_text(answer.shown), results
    assert "A vision transformer" in told
    assert "3 budgets, 9 runs" in told
    assert f"Trust: {result.fit.trust}" in told
    assert "Check on the largest budget" in told
    assert all(run.state == "completed" for run in result.runs)
    longest = max(result.runs, key=lambda run: run.tokens)
    assert (longest.unique_tokens, longest.experiment.unit) == (400, "samples")
    for path in (tmp_path, tmp_path / "runs.csv"):
        fit = read_fit(path, "auto", None)
        assert (fit.params, fit.trust) == (result.fit.params, result.fit.trust)
        assert [str(d) for d in fit.diagnostics] == [str(d) for d in result.fit.diagnostics]
        assert str(fit.predict(1e9)) == str(result.predict(1e9))
        assert not {"flops_implausible", "mixed_loss_units"} & {d.code for d in fit.diagnostics}


def test_no_run_sees_an_image_more_than_four_times() -> None:
    """At the smallest width of each budget; with five widths or more and both arms at each."""
    sweep = fashion_sweep()
    for budget, widths in sweep["sizes"].items():
        assert len(set(widths)) >= 5
        with torch.device("meta"):
            model = VisionTransformer(min(widths), **sweep["model_kwargs"])
            images, labels = torch.zeros(8, 1, 28, 28), torch.zeros(8, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            vit_loss_fn(model(images), labels).backward()
        assert budget / (counter.get_total_flops() / 8) <= 4 * 60_000


def test_images_that_are_not_there_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    told = called(capsys, "demo", "--data-dir", "nowhere", "--output-dir", "unused")
    assert told.code == 2
    assert "apt-get install dataset-fashion-mnist" in told.err
    assert len(told.err.strip().splitlines()) == 1
