"""How big a GPT, on how much text, for a given budget: the whole thing in Python.

::

    python -m flops_fit.examples.example_programmatic               # simulated: seconds
    python -m flops_fit.examples.example_programmatic --data sotu   # trains: minutes, offline
    python -m flops_fit.examples.example_programmatic --real        # trains on TinyStories

Without ``--real`` or ``--data`` nothing is trained: losses come from a published law with noise.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import flops_fit
from flops_fit.examples.gpt import GPTFactory, gpt_loss_fn
from flops_fit.examples.text import SOTUDataset, TinyStoriesDataset

VOCAB_SIZE = 50_257  # of GPT-2's tokenizer, which cuts TinyStories

BUDGETS = {
    "mock": (1e17, 3e17, 1e18, 3e18, 1e19),
    "tinystories": (1e15, 3e15, 1e16, 3e16),
    "sotu": (1.5e10, 4e10, 1e11),
}


def make_model_factory(
    num_layers: int = 2, num_heads: int | None = None, vocab_size: int = VOCAB_SIZE
) -> GPTFactory:
    """A GPT of any ``d_model``; all else is fixed here."""
    return GPTFactory(num_layers=num_layers, num_heads=num_heads, vocab_size=vocab_size)


def run(
    data: str | None = None,
    budgets: Sequence[float] | None = None,
    num_layers: int = 2,
    num_heads: int | None = None,
    output_dir: str | Path = "outputs/gpt",
    executor: str = "inprocess",
) -> flops_fit.Result:
    """Sweep GPTs and fit a law; ``data`` is ``"tinystories"``, ``"sotu"``, or ``None`` to simulate."""
    text = SOTUDataset if data == "sotu" else TinyStoriesDataset
    vocab_size = SOTUDataset.vocab_size if data == "sotu" else VOCAB_SIZE
    dataset = text("train")
    tokens = torch.zeros(1, dataset.seq_len, dtype=torch.int64)
    result = flops_fit.find_optimal(
        model_cls=make_model_factory(num_layers, num_heads, vocab_size),
        model_size_param="d_model",
        dataset=dataset,
        eval_dataset=text("validation"),
        loss_fn=gpt_loss_fn,
        compute_budgets=list(budgets or BUDGETS[data or "mock"]),
        mode="local" if data else "mock",
        output_dir=output_dir,
        executor=executor,
        example_batch=(tokens, tokens),  # FLOPs are counted on its shape
    )
    assert isinstance(result, flops_fit.Result)
    return result


def show(result: flops_fit.Result, simulated: bool, models: str = "GPTs") -> None:
    """Print the answer with its trust, a prediction and what they mean; write figures and report."""
    print(result)
    target = 10 * max(result.plan.budgets)
    answer = result.predict(target)
    print(
        f"\nWith ten times the largest budget, {target:.3g} FLOPs, train about "
        f"{answer.optimal_params:.3g} parameters on {answer.optimal_tokens:.3g} {answer.unit} "
        f"and expect a loss of {answer.expected_loss:.3f}."
    )
    real = "These numbers hold for this model, this data and this training, and for no other."
    print(f"These numbers are simulated: they say nothing about {models}." if simulated else real)
    result.plot(show=False)
    print(f"Report: {result.report()}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--real", action="store_true", help="train, on TinyStories by default")
    parser.add_argument("--data", choices=("tinystories", "sotu"), help="train on this text")
    parser.add_argument("--output-dir", default="outputs/gpt")
    args = parser.parse_args(argv)
    data = args.data or ("tinystories" if args.real else None)
    # Small models use one core each, so several train at a time.
    executor = "pool" if data == "sotu" else "inprocess"
    show(run(data, output_dir=args.output_dir, executor=executor), simulated=data is None)


if __name__ == "__main__":
    main()
