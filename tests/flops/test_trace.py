"""Counts equal closed forms; what cannot be counted is told and what is no work is left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.plan.closed_forms import CASES
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from flops_fit.examples.gpt import GPT, GPTConfig
from flops_fit.flops import trace_flops
from flops_fit.flops.formulas import is_unknown_work
from flops_fit.flops.trace import STRATA, each_operation


def meta(*shape: int, grad: bool = False) -> Tensor:
    return torch.empty(*shape, device="meta", requires_grad=grad)


@pytest.mark.parametrize("name", CASES)
def test_counts_equal_their_closed_form(name: str) -> None:
    counted, forward, backward = CASES[name]()
    assert counted.forward == forward
    assert counted.backward == backward
    assert counted.notes == ()


def test_a_compiled_model_is_counted_as_it_was_written() -> None:
    compiled: list[Any] = []

    def backend(graph: nn.Module, inputs: list[Tensor]) -> Any:
        compiled.append(graph)
        return graph.forward

    layer = nn.Linear(10, 20, device="meta")
    fast = torch.compile(layer, backend=backend)
    assert trace_flops(lambda: fast(meta(5, 10)).sum()).forward == 2 * 5 * 10 * 20
    assert compiled == []


@pytest.mark.parametrize("width", [16, 64, 512])
@pytest.mark.parametrize("context", [8, 256])
def test_a_gpt_costs_its_closed_form_to_the_last_flop(width: int, context: int) -> None:
    config = GPTConfig(d_model=width, num_layers=2)
    model = GPT(config).to("meta")
    ids = torch.zeros(3, context, dtype=torch.long, device="meta")
    counted = trace_flops(lambda: model(ids)[0].sum(), model)
    assert counted.total == 3 * context * config.flops_per_token(context)


def test_where_torch_counts_right_both_counts_are_equal() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(900, 16), nn.TransformerEncoderLayer(16, 4, 32)
    ).to("meta")
    x = meta(2, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    assert trace_flops(lambda: model(x).sum(), model).total == counter.get_total_flops()


def test_torch_counts_a_depthwise_backward_pass_too_high() -> None:
    """The reason for own closed forms: torch has no groups in the gradient of the weight."""
    layer, x = nn.Conv2d(64, 64, 3, padding=1, groups=64).to("meta"), meta(1, 64, 8, 8, grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    forward = 2 * 64 * 64 * 9
    assert counter.get_total_flops() == (1 + 1 + 64) * forward
    assert trace_flops(lambda: layer(x).sum(), layer).total == 3 * forward


def test_a_teacher_without_gradients_costs_its_forward_pass() -> None:
    student, teacher = nn.Linear(8, 8).to("meta"), nn.Linear(8, 8).to("meta")
    x = meta(5, 8)

    def loss() -> Tensor:
        with torch.no_grad():
            target = teacher(x)
        return functional.mse_loss(student(x), target)

    each = 2 * 5 * 8 * 8
    counted = trace_flops(loss, student)
    assert (counted.forward, counted.backward) == (2 * each, each)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_fast_path_of_an_encoder_without_gradients_is_counted(device: str) -> None:
    """In evaluation torch fuses the whole layer: 2·B·(T·(4·D² + 2·D·H) + 2·T²·D) all the same."""
    B, T, D, H = 2, 5, 8, 32
    teacher = nn.TransformerEncoderLayer(D, 2, H, batch_first=True).to(device).eval()
    student, x = nn.Linear(D, D).to(device), torch.zeros(B, T, D, device=device)

    def loss() -> Tensor:
        with torch.no_grad():
            target = teacher(x)
        return functional.mse_loss(student(x), target)

    expected = 2 * B * (T * (4 * D**2 + 2 * D * H) + 2 * T**2 * D) + 2 * B * T * D**2
    counted = trace_flops(loss, teacher)
    assert counted.forward == expected
    assert counted.notes == ()
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations_are_counted_apart(reentrant: bool) -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh()).to("meta"), meta(5, 8, grad=True)
    plain = trace_flops(lambda: model(x).sum(), model)
    saved = trace_flops(lambda: checkpoint(model, x, use_reentrant=reentrant).sum(), model)
    assert saved.total == plain.total
    assert saved.recomputed == plain.forward
    assert plain.recomputed == 0
    assert "computes 100% of the forward pass again" in saved.notes[0]


class Own(nn.Module):
    """A weight that passes an operation of the user's own, beside a linear layer."""

    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(meta(8, 8))
        self.layer = nn.Linear(8, 8, device="meta")
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(self.operation(x, self.weight))
        return out


@torch.library.custom_op("flops_fit_tests::unknown", mutates_args=())
def unknown(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


@torch.library.custom_op("flops_fit_tests::known", mutates_args=())
def known(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


for operation in (unknown, known):
    operation.register_fake(lambda a, b: a.new_empty(a.shape[0], b.shape[1]))
    operation.register_autograd(
        lambda ctx, grad: (grad * 1, ctx.saved_tensors[0] * 1),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[1]),
    )


@register_flop_formula(torch.ops.flops_fit_tests.known)
def known_flops(a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(2 * a[0] * a[1] * b[1])


def test_an_operation_without_a_formula_is_named_and_so_is_its_weight() -> None:
    model = Own(unknown)
    counted = trace_flops(lambda: model(meta(5, 8)).sum(), model)
    assert counted.forward == 2 * 5 * 8 * 8
    assert "flops_fit_tests.unknown (1×)" in counted.notes[0]
    assert "50% of the weights" in counted.notes[1]
    assert "(weight)" in counted.notes[1]


def test_a_formula_that_the_user_registered_is_used() -> None:
    model = Own(known)
    counted = trace_flops(lambda: model(meta(5, 8)).sum(), model)
    assert counted.forward == 2 * 2 * 5 * 8 * 8
    assert counted.notes == ()


def test_a_kernel_that_hides_from_torch_leaves_its_weight_unseen() -> None:
    model = Own(lambda x, weight: torch.empty_like(x))
    counted = trace_flops(lambda: model(meta(5, 8)).sum(), model)
    assert "50% of the weights were in no known operation (weight)" in counted.notes[0]


class Product(torch.autograd.Function):
    """A matrix product with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grads[0] @ weight.t(), x.t() @ grads[0]


class Wasteful(Product):
    """Eight more products in its backward pass."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        for _ in range(8):
            x @ weight
        return Product.backward(ctx, *grads)


def test_a_function_with_a_backward_pass_of_its_own_is_counted() -> None:
    model, each = Own(Product.apply), 2 * 5 * 8 * 8
    counted = trace_flops(lambda: model(meta(5, 8, grad=True)).sum(), model)
    assert (counted.forward, counted.backward) == (2 * each, 4 * each)
    assert counted.notes == ()


def test_a_backward_pass_of_many_forward_passes_is_told() -> None:
    model = Own(Wasteful.apply)
    counted = trace_flops(lambda: model(meta(5, 8, grad=True)).sum(), model)
    assert "backward pass of matrix products costs 6 times" in counted.notes[0]


def test_operations_that_multiply_and_have_no_formula_are_told() -> None:
    x = meta(4, 64, grad=True)
    counted = trace_flops(lambda: torch.fft.rfft(x).abs().sum())
    assert "aten._fft_r2c (1×)" in counted.notes[0]


def test_weights_that_are_added_looked_up_or_cast_are_no_gap() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(meta(1, 9, 8))
            self.scale = nn.Parameter(meta(1, 1, 8))
            self.table = nn.Embedding(10, 8, device="meta")
            self.head = nn.Linear(8, 8, device="meta")

        def forward(self, ids: Tensor) -> Tensor:
            x = self.table(ids) + self.position[:, :5]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.head(x).float() * self.scale

    model = Model()
    ids = torch.zeros(2, 5, dtype=torch.long, device="meta")
    counted = trace_flops(lambda: model(ids).sum(), model)
    assert counted.notes == ()
    assert counted.forward == 2 * 2 * 5 * 8 * 8


def test_routed_rows_of_a_grouped_product_count_once() -> None:
    """T rows through E experts cost what T rows through one do: 2·T·D·H."""
    rows, experts = meta(64, 32).bfloat16(), meta(4, 32, 16).bfloat16().requires_grad_()
    ends = torch.zeros(4, dtype=torch.int32, device="meta")
    weight = meta(64, 16).bfloat16()
    counted = trace_flops(lambda: (torch._grouped_mm(rows, experts, offs=ends) * weight).sum())
    assert counted.forward == counted.backward == 2 * 64 * 32 * 16


def test_a_complex_product_is_four_real_ones() -> None:
    a = torch.empty(3, 4, device="meta", dtype=torch.complex64, requires_grad=True)
    counted = trace_flops(lambda: (a @ a.t().detach()).abs().sum())
    assert counted.forward == 4 * 2 * 3 * 4 * 3


@pytest.mark.parametrize("kernel", ["flash_attention_for_cpu", "efficient_attention"])
def test_a_fused_attention_kernel_costs_what_its_products_do(kernel: str) -> None:
    """Forward 2·B·H·T·S·(D + D); twice that backward, though kernels compute scores anew."""
    q, k = meta(2, 4, 64, 8, grad=True), meta(2, 4, 32, 8)
    fused = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}")
    extra = (None, False) if "efficient" in kernel else ()
    counted = trace_flops(lambda: fused(q, k, k, *extra)[0].sum())
    assert counted.forward == 2 * 2 * 4 * 64 * 32 * 16
    assert counted.backward == 2 * counted.forward


def test_a_convolution_with_time_first_costs_its_products() -> None:
    """Forward 2·(T + 2)·B·outputs·inputs·kernel, with padding of two."""
    x, weight = meta(9, 2, 4), meta(3, 4, 8, grad=True)
    counted = trace_flops(lambda: torch.conv_tbc(x, weight, meta(8), 2).sum())
    assert counted.forward == 2 * (9 + 2) * 2 * 8 * 4 * 3


def test_products_of_torch_without_a_formula_are_told_and_element_wise_names_are_not() -> None:
    products = "_weight_int8pack_mm mkldnn_linear _dyn_quant_matmul_4bit _conv_depthwise2d"
    assert all(is_unknown_work(f"aten.{op}") for op in products.split())
    others = (
        "upsample_linear1d lgamma cummax _weight_norm_interface _convert_weight_to_int4pack gelu"
    )
    assert not any(is_unknown_work(f"aten.{op}") for op in others.split())


def test_norms_are_element_wise_and_solvers_are_not() -> None:
    x = meta(4, 8, grad=True)
    assert trace_flops(lambda: functional.normalize(x, dim=-1).sum()).notes == ()
    assert trace_flops(lambda: torch.linalg.cross(x[:, :3], x[:, 3:6]).sum()).notes == ()
    square = meta(4, 4, grad=True)
    assert "linalg" in trace_flops(lambda: torch.linalg.inv(square).sum()).notes[0]


def test_a_draw_decides_single_uniform_numbers_and_no_others() -> None:
    """Two numbers at once are weights or noise: they are drawn as ever, and differ."""

    def drawn(draw: int) -> tuple[float, list[float]]:
        torch.manual_seed(0)
        with each_operation(lambda *_: None, draw):
            return float(torch.rand(())), torch.rand(2).tolist()

    singles, pairs = zip(*(drawn(draw) for draw in (1, 2, 3)), strict=True)
    assert len(set(singles)) == 3
    assert all(0 <= single < 1 for single in singles)
    assert pairs[0] == pairs[1] == pairs[2]
    assert pairs[0][0] != pairs[0][1]


def test_draws_come_from_every_part_of_the_unit_interval() -> None:
    """A Latin hypercube: of as many draws as strata, each number lies once in each."""

    def numbers(draw: int) -> list[float]:
        with each_operation(lambda *_: None, draw):
            return [float(torch.rand(())) for _ in range(3)]

    for group in (0, 1):
        drawn = [numbers(STRATA * group + draw) for draw in range(1, STRATA + 1)]
        for place in zip(*drawn, strict=True):
            assert sorted(int(STRATA * value) for value in place) == list(range(STRATA))


@pytest.mark.parametrize(("axes", "stacked"), [((0, 1, 2), True), ((1, 0, 2), False)])
def test_only_weights_that_are_stacked_along_their_first_axis_are_experts(
    axes: tuple[int, int, int], stacked: bool
) -> None:
    """Of each a batched product through 3 of them takes every position; else none is counted as one's."""
    layer = nn.Module()
    layer.weight = nn.Parameter(meta(3, 8, 16) if stacked else meta(8, 3, 16))
    counted = trace_flops(lambda: torch.bmm(meta(3, 5, 8), layer.weight.permute(axes)).sum(), layer)
    assert counted.forward == 2 * 3 * 5 * 8 * 16
    assert list(counted.calls.get("weight", [])) == ([5.0] if stacked else [])
    assert counted.notes == ()


def test_what_is_drawn_for_nothing_changes_no_later_draw() -> None:
    """As for a whole tensor, one number is taken, whatever its size: none, two or a hundred."""

    def later(count: int) -> list[float]:
        torch.manual_seed(0)
        with each_operation(lambda *_: None, 1):
            torch.rand(count)
            return torch.rand(4).tolist()

    assert later(0) == later(2) == later(100)
