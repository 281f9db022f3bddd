"""The vision transformer has the size it says and takes images to logits."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from flops_fit.errors import ModelError
from flops_fit.examples import VisionTransformer, vit_loss_fn
from flops_fit.examples.example_vit_cifar import make_vit_factory


def _images(batch=2, seed=0):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_the_default_has_108106_parameters():
    model = VisionTransformer()
    assert model.num_params() == sum(p.numel() for p in model.parameters()) == 108_106


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 20)
)
def test_closed_form_of_n(width, heads, L, P, K):
    d, S = width * heads, 2 * P
    with torch.device("meta"):
        model = VisionTransformer(d, L, heads, image_size=S, patch_size=P, num_classes=K)
    blocks = L * (12 * d * d + 13 * d)
    assert model.num_params() == (
        blocks + d * (3 * P * P + 1) + d * ((S // P) ** 2 + 2) + 2 * d + K * (d + 1)
    )


def test_n_of_the_demo_on_images_by_the_closed_form():
    """One channel in place of three leaves out 2·d·P² of the patch embedding."""
    grey, colour = (VisionTransformer(8, 2, 2, 28, 7, channels=c) for c in (1, 3))
    assert (grey.num_params(), colour.num_params()) == (2394, 2394 + 2 * 8 * 49)
    assert grey(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_a_block_computes_what_torchs_encoder_layer_computes():
    block = VisionTransformer(embed_dim=16, num_heads=4, num_layers=1).blocks[0]
    layer = nn.TransformerEncoderLayer(
        16, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    pairs = {
        "self_attn.in_proj_": block.qkv,
        "self_attn.out_proj.": block.proj,
        "linear1.": block.up,
        "linear2.": block.down,
        "norm1.": block.norm1,
        "norm2.": block.norm2,
    }
    state = {f"{k}{n}": p for k, m in pairs.items() for n, p in m.named_parameters()}
    layer.load_state_dict(state)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x), layer(x))


def test_images_become_logits_and_the_first_loss_is_ln_10():
    logits = VisionTransformer()(_images())
    assert logits.shape == (2, 10)
    loss = vit_loss_fn(logits, torch.tensor([3, 7]))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(math.log(10))


def test_loss_is_torchs_cross_entropy():
    logits, labels = _images()[:, 0, 0, :10], torch.tensor([3, 7])
    torch.testing.assert_close(
        vit_loss_fn(logits, labels), functional.cross_entropy(logits, labels)
    )


def test_every_patch_reaches_the_logits():
    model = VisionTransformer(embed_dim=16, num_heads=4)
    nn.init.normal_(model.head.weight)
    images = _images().requires_grad_()
    model(images).square().sum().backward()
    assert (images.grad.abs() > 0).all()


def test_it_runs_without_memory():
    with torch.device("meta"):
        model = VisionTransformer(embed_dim=4096, num_layers=12)
        assert model(torch.empty(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"embed_dim": 60}, "embed_dim=60 and num_heads=8"),
        ({"patch_size": 5}, "image_size=32 and patch_size=5"),
        ({"num_layers": 0}, "at least 1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        VisionTransformer(**kwargs)
    assert isinstance(caught.value, ModelError)


def test_factory_travels_and_tells_what_it_builds():
    factory = pickle.loads(pickle.dumps(make_vit_factory(num_layers=2, num_heads=8)))
    assert factory(embed_dim=64).num_params() == factory(64).num_params() == 108_106
    assert "VisionTransformer" in repr(factory)
    assert "num_heads=8" in repr(factory)
