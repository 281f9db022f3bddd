"""Pages of several fits, and a browser to open them in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import flops_fit
from flops_fit import reference
from flops_fit.laws import Hoffmann, Law
from tests.conftest import MLP, Blobs, cross_entropy
from tests.report.conftest import law_runs

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / ".browser" / "node_modules" / "axe-core" / "axe.min.js"
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Own(Law):
    """A law that the page has no formula of."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    name = "own"

    def loss(self, N: Any, D: Any) -> Any:
        return Hoffmann(**self.params).loss(N, D)

    @classmethod
    def starts(cls, N: Any, D: Any, loss: Any) -> list[dict[str, float]]:
        return [{"E": 1.5, "A": 400.0, "B": 2000.0, "alpha": 0.33, "beta": 0.36}]


def mock_sweep(folder: Path) -> flops_fit.Result:
    """A sweep of a counted model on samples, answered by a known law."""
    return flops_fit.find_optimal(
        model_cls=MLP,
        model_size_param="width",
        dataset=(data := Blobs()),
        example_batch=(data.x[:4], data.y[:4]),
        loss_fn=cross_entropy,
        compute_budgets=[3e7, 1e8, 3e8, 1e9],
        mode="mock",
        batch_size=4,
        output_dir=folder,
        progress=False,
    )


@dataclass
class Report:
    """A fit and where its page lies."""

    fit: flops_fit.Fit
    path: Path


@dataclass
class Opened:
    """A page in a browser, and what it said and asked for while it was open."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """Pages by name: each way that a page can compute its numbers, and each F(N)."""
    folder = tmp_path_factory.mktemp("pages")
    rows = law_runs((1e18, 3e18, 1e19, 3e19, 1e20))
    result = mock_sweep(folder / "sweep")
    fits = {
        "linear": flops_fit.fit_runs(reference.runs("hoffmann2022_epoch")),
        "smooth": flops_fit.fit_runs(reference.runs("marin2026_dclm")),
        "additive": flops_fit.fit_runs(rows),
        "draws": flops_fit.fit_runs(rows, law="hoffmann", delta=1e-4),
        "lines": flops_fit.fit_runs(
            law_runs((1e18, 2e18, 4e18, 8e18), noise=0.1, sizes=5, spread=2.0, seed=6)
        ),
        "own": flops_fit.fit_runs(rows, law=Own),
    }
    made = {
        name: Report(fit, flops_fit.write_report(fit, folder / f"{name}.html"))
        for name, fit in fits.items()
    }
    made["counted"] = Report(result.fit, result.report(folder / "counted.html"))
    pair = fits["additive"], fits["draws"]
    compared = flops_fit.report.write_comparison(*pair, folder / "compared.html")
    return made | {"compared": Report(pair[0], compared)}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium, with a new profile."""
    path = shutil.which("chromium")
    assert path is not None, "expected chromium on the path; `make test-browser` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, reports: dict[str, Report]) -> Iterator[Callable[..., Opened]]:
    """Opens a page by name; ``width`` and ``scheme`` as a reader has them."""
    contexts = []

    def open_page(name: str = "linear", *, width: int = 1280, scheme: Any = "light") -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        found = Opened(context.new_page())
        found.page.on(
            "console",
            lambda m: found.errors.append(m.text) if m.type in ("error", "warning") else None,
        )
        found.page.on("pageerror", lambda e: found.errors.append(str(e)))
        found.page.on("request", lambda r: found.requests.append(r.url))
        found.page.goto(reports[name].path.as_uri())
        return found

    yield open_page
    for context in contexts:
        context.close()


def set_field(page: Page, name: str, value: float | str) -> None:
    """Type into an input of the panel."""
    page.fill(f"#{name}", value if isinstance(value, str) else repr(float(value)))


def read_row(page: Page, name: str, column: int = 0) -> tuple[float, float, float]:
    """(value, low, high) of a row of the panel's answer; NaN for what is not there."""
    cell = page.locator(f"#answer-{name} td").nth(column)
    parts = [cell.get_attribute(f"data-{part}") for part in ("value", "low", "high")]
    return tuple(np.nan if p is None else float(p) for p in parts)  # type: ignore[return-value]
