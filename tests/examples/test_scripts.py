"""The scripts answer without training, and their parts can be used alone."""

import math
import pickle

import pytest
import torch

import flops_fit
from flops_fit.examples import (
    SOTUDataset,
    example_cli_wrapper,
    example_programmatic,
    example_vit_cifar,
    vit_loss_fn,
)
from flops_fit.examples.example_vit_cifar import _make_synthetic_cifar_dataset, make_vit_factory


@pytest.fixture
def light(monkeypatch):
    """Leave out the drawing, which has tests of its own."""
    monkeypatch.setattr(flops_fit.Result, "plot", lambda self, show=True: [])
    monkeypatch.setattr(flops_fit.Result, "report", lambda self, path=None: path)


@pytest.mark.parametrize("module", [example_programmatic, example_cli_wrapper])
def test_gpt_factories_build_the_width_they_are_asked_for(module):
    factory = pickle.loads(pickle.dumps(module.make_model_factory(num_layers=3, num_heads=2)))
    with torch.device("meta"):
        config = factory(d_model=16).config
    assert (config.d_model, config.num_layers, config.num_heads) == (16, 3, 2)
    assert config.vocab_size == module.VOCAB_SIZE == 50_257


def test_the_programmatic_example_answers(tmp_path, capsys, light):
    example_programmatic.main(["--output-dir", str(tmp_path)])
    out = capsys.readouterr().out
    assert "| Compute Budget" in out
    assert "1e+20 FLOPs, train about" in out
    assert "Trust: caution" in out
    assert "These numbers are simulated" in out


def test_the_cli_example_answers_at_the_budgets_it_is_given(tmp_path, capsys, light):
    budgets = ["1e16", "3e16", "1e17", "3e17"]
    example_cli_wrapper.main(["--output-dir", str(tmp_path), "--budgets", *budgets])
    out = capsys.readouterr().out
    assert "| 3e+17 " in out
    assert "3e+18 FLOPs, train about" in out


def test_the_cli_example_says_what_it_takes(capsys):
    options = vars(example_cli_wrapper.build_parser().parse_args([]))
    assert set(options) == {
        "budgets",
        "num_layers",
        "num_heads",
        "output_dir",
        "real",
        "data",
        "executor",
    }
    with pytest.raises(SystemExit):
        example_cli_wrapper.main(["--data", "shakespeare"])
    assert "invalid choice: 'shakespeare'" in capsys.readouterr().err


def test_the_vit_example_answers(tmp_path, capsys, light):
    example_vit_cifar.main(["--output-dir", str(tmp_path)])
    out = capsys.readouterr().out
    assert "D: samples" in out
    assert "Trust: caution" in out
    assert "These numbers are simulated" in out


def test_the_vit_example_refuses_data_it_does_not_know(tmp_path):
    with pytest.raises(ValueError, match="'cifar10', 'offline' or None"):
        example_vit_cifar.run(output_dir=tmp_path, data="imagenet")


def test_two_budgets_are_enough_to_simulate(tmp_path):
    result = flops_fit.find_optimal(
        model_cls=make_vit_factory(num_layers=2, num_heads=8),
        model_size_param="embed_dim",
        dataset=_make_synthetic_cifar_dataset(size=64),
        loss_fn=vit_loss_fn,
        compute_budgets=[1e12, 1e13],
        mode="mock",
        output_dir=tmp_path,
    )
    assert result.plan.budgets == (1e12, 1e13)


def test_synthetic_images_are_the_same_each_time():
    one, other = (_make_synthetic_cifar_dataset(size=20) for _ in range(2))
    assert len(one) == 20
    assert torch.equal(one[3][0], other[3][0])
    assert one[3][0].shape == (3, 32, 32)
    assert torch.stack([label for _, label in one]).bincount().tolist() == [2] * 10


def test_the_gpt_example_trains_on_real_text(tmp_path, monkeypatch):
    """A sweep of seconds on the first pages, through the same door as the long one."""

    class FirstPages(SOTUDataset):
        def _load(self):
            return super()._load()[:40_000]

    monkeypatch.setattr(example_programmatic, "SOTUDataset", FirstPages)
    result = example_programmatic.run("sotu", budgets=[2e8, 4e8, 8e8], output_dir=tmp_path)
    losses = [run.loss for run in result.runs if run.state == "completed"]
    assert result.plan.unit == "tokens"
    assert len(losses) == len(result.runs)
    assert all(2 < loss < math.log(256) for loss in losses)
