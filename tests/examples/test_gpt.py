"""The GPT is what its closed forms say, sees only the past, and starts at ln V."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from flops_fit.errors import InputTypeError, ModelError
from flops_fit.examples import GPT, GPTConfig, create_model_for_scaling, gpt_loss_fn
from flops_fit.examples.gpt import GPTFactory, _rotary_tables, _rotate

WIDTHS = (8, 12, 16, 20, 24, 32, 48, 64, 96)


def _tokens(batch=3, length=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, length), generator=generator)


def _trained_head(model):
    """A zero head hides everything below it; give it values."""
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return model


@pytest.mark.parametrize("d_model", WIDTHS)
def test_parameters_of_the_two_layer_byte_model(d_model):
    """N = 24d² + 512d."""
    model = GPT(d_model=d_model)
    counted = sum(p.numel() for p in model.parameters())
    assert counted == 24 * d_model**2 + 512 * d_model == model.num_params()


@settings(max_examples=40, deadline=None)
@given(
    heads=st.integers(1, 6),
    half_width=st.integers(1, 8),
    num_layers=st.integers(1, 4),
    vocab_size=st.integers(1, 600),
)
def test_closed_form_of_n_is_the_count(heads, half_width, num_layers, vocab_size):
    config = GPTConfig(2 * heads * half_width, num_layers, heads, vocab_size, max_seq_len=8)
    with torch.device("meta"):
        model = GPT(config)
    assert sum(p.numel() for p in model.parameters()) == config.num_params()


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(WIDTHS), st.integers(1, 3), st.integers(1, 40), st.integers(1, 3))
def test_closed_form_of_flops_is_the_trace_on_meta(d_model, num_layers, length, batch):
    config = GPTConfig(d_model, num_layers)
    with torch.device("meta"):
        model = GPT(config)
        idx = torch.zeros(batch, length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        gpt_loss_fn(model(idx), idx).backward()
    assert counter.get_total_flops() == batch * length * config.flops_per_token(length)


def test_flops_of_the_two_layer_byte_model():
    """6·(24d² + 256d) + 24·T·d."""
    assert GPTConfig(16).flops_per_token(64) == 6 * (24 * 256 + 256 * 16) + 24 * 64 * 16


def test_the_first_loss_is_ln_v_at_every_width():
    for d_model in WIDTHS:
        loss = GPT(d_model=d_model)(_tokens(), targets=_tokens(seed=1))[1]
        assert loss.item() == pytest.approx(math.log(256), rel=1e-6)


def test_a_later_token_changes_no_earlier_logits():
    model = _trained_head(GPT(d_model=32))
    idx = _tokens()
    changed = idx.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 256
    before, after = model(idx)[0], model(changed)[0]
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert ((before[:, 10:] - after[:, 10:]).abs().amax(-1) > 1e-3).all()


def test_an_earlier_token_changes_all_later_logits():
    model = _trained_head(GPT(d_model=32))
    idx = _tokens(batch=1)
    changed = idx.clone()
    changed[0, 0] = (changed[0, 0] + 1) % 256
    assert ((model(idx)[0] - model(changed)[0]).abs().amax(-1) > 1e-6).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20))
def test_rotary_products_depend_on_the_distance_only(i, j, shift):
    cos, sin = (t.double() for t in _rotary_tables(GPTConfig(8, max_seq_len=64)))
    q, k = torch.randn(2, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0))

    def product(a, b):
        return _rotate(q, cos[a, 0], sin[a, 0]) @ _rotate(k, cos[b, 0], sin[b, 0])

    torch.testing.assert_close(product(i, j), product(i + shift, j + shift), atol=1e-5, rtol=0)


def test_rotary_rotation_is_multiplication_by_a_complex_unit():
    config = GPTConfig(8, max_seq_len=64)
    x = torch.randn(64, 1, 8, generator=torch.Generator().manual_seed(0))
    frequency = config.rope_base ** (-torch.arange(4) / 4)
    angle = torch.outer(torch.arange(64), frequency)[:, None, :]
    pairs = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat((pairs.real, pairs.imag), dim=-1)
    torch.testing.assert_close(_rotate(x, *_rotary_tables(config)), expected)


def test_the_order_of_the_context_matters():
    """Without positions the last logits would not change when earlier tokens swap places."""
    model = _trained_head(GPT(d_model=16, num_layers=1))
    one = model(torch.tensor([[1, 2, 3]]))[0][0, -1]
    other = model(torch.tensor([[2, 1, 3]]))[0][0, -1]
    assert (one - other).abs().max() > 1e-4


def test_loss_is_torchs_cross_entropy():
    model = _trained_head(GPT(d_model=16))
    targets = _tokens(seed=1)
    outputs = model(_tokens())
    expected = functional.cross_entropy(outputs[0].transpose(1, 2), targets)
    torch.testing.assert_close(gpt_loss_fn(outputs, targets), expected)
    torch.testing.assert_close(model(_tokens(), targets)[1], expected)
    assert outputs[1] is None


def test_masked_targets_are_not_counted():
    model = _trained_head(GPT(d_model=16))
    targets = _tokens(seed=1)
    outputs = model(_tokens())
    masked = targets.clone()
    masked[:, 5:] = -100
    expected = functional.cross_entropy(outputs[0][:, :5].transpose(1, 2), targets[:, :5])
    torch.testing.assert_close(gpt_loss_fn(outputs, masked), expected)


def test_equal_seeds_make_equal_models():
    def build():
        torch.manual_seed(3)
        return GPT(d_model=16).state_dict()

    for one, other in zip(build().values(), build().values(), strict=True):
        assert torch.equal(one, other)


def test_every_parameter_learns():
    """Once the head is not zero any more, no gradient is."""
    model = _trained_head(GPT(d_model=16))
    gpt_loss_fn(model(_tokens(length=64)), _tokens(length=64, seed=1)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_few_steps_lower_the_loss():
    torch.manual_seed(0)
    model = GPT(d_model=16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    x = (torch.arange(17) * 7 % 256).expand(4, -1)
    losses = []
    for _ in range(40):
        loss = gpt_loss_fn(model(x[:, :-1]), x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_rotary_tables_are_no_state():
    assert not {"cos", "sin"} & set(GPT(d_model=16).state_dict())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"d_model": 18, "num_heads": 4}, "d_model=18 and num_heads=4"),
        ({"d_model": 12, "num_heads": 4}, "even head width"),
        ({"d_model": 22}, "use a multiple of 8"),
        ({"d_model": 0}, "d_model must be at least 1"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"num_heads": 0}, "num_heads must be at least 1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        GPT(**kwargs)
    assert isinstance(caught.value, ModelError)


def test_a_context_beyond_the_tables_is_refused():
    with pytest.raises(ModelError, match="larger max_seq_len"):
        GPT(d_model=8, max_seq_len=8)(_tokens(length=9))


def test_misspelt_and_misplaced_arguments_are_refused():
    with pytest.raises(TypeError, match="d_modle"):
        GPT(d_modle=16)
    with pytest.raises(InputTypeError, match="GPTConfig or keywords"):
        GPT(16)


def test_keywords_override_a_config():
    assert GPT(GPTConfig(16), num_layers=1).config == GPTConfig(16, num_layers=1)


def test_default_heads_are_8_to_14_wide_below_128_and_grow_to_128():
    assert [GPTConfig(d).head_dim for d in WIDTHS] == [8, 12, 8, 10, 8, 8, 8, 8, 8]
    assert [GPTConfig(d).head_dim for d in (128, 512, 1024, 8192)] == [16, 64, 128, 128]


def test_factory_travels_and_tells_what_it_builds():
    factory = pickle.loads(pickle.dumps(GPTFactory(num_layers=1, vocab_size=32)))
    assert factory(d_model=16).config == GPTConfig(16, 1, vocab_size=32)
    assert repr(factory) == "GPTFactory(num_layers=1, num_heads=None, vocab_size=32)"


@settings(max_examples=60, deadline=None)
@given(st.floats(math.log(5e4), math.log(1e11)))
def test_models_for_scaling_are_within_5_percent(log_target):
    target = math.exp(log_target)
    config = create_model_for_scaling(target, device="meta").config
    assert config.num_params() == pytest.approx(target, rel=0.05)


@pytest.mark.parametrize("target", [3e6, 1e9])
def test_models_for_scaling_are_within_5_percent_with_gpt2s_vocabulary(target):
    model = create_model_for_scaling(target, vocab_size=50_257, device="meta")
    assert model.num_params() == pytest.approx(target, rel=0.05)


def test_models_for_scaling_have_memory_unless_told_otherwise():
    assert next(create_model_for_scaling(5e4).parameters()).device.type == "cpu"


@pytest.mark.parametrize("target", [10, 0, -1, math.nan, math.inf])
def test_sizes_that_no_model_has_are_refused(target):
    with pytest.raises(ModelError, match=r"No GPT|target_params must"):
        create_model_for_scaling(target)
