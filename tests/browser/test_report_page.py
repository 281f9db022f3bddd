"""The page in a browser: it computes what Python does, asks for nothing, and anyone can use it."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from flops_fit import report
from flops_fit.plan.cost import find_peak
from tests.browser.conftest import AXE, Opened, Report, read_row, set_field
from tests.cli._typed import TYPED

NAMES = ("linear", "smooth", "additive", "draws", "lines", "own", "counted")
Open = Callable[..., Opened]
OFF_PLACE = """marks => marks.map(mark => {
    const box = mark.getBoundingClientRect(), at = mark.ownerSVGElement.createSVGPoint();
    [at.x, at.y] = [Number(mark.getAttribute("x")), Number(mark.getAttribute("y"))];
    const {x, y} = at.matrixTransform(mark.parentNode.getScreenCTM());
    return [Math.hypot(x - box.x - box.width / 2, y - box.y - box.height / 2), box.width];
})"""
ROWS = {
    "params": "optimal_params",
    "tokens": "optimal_tokens",
    "loss": "expected_loss",
    "ratio": "tokens_per_param",
    "run-loss": "run_loss",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_without_an_error_and_asks_for_nothing(
    opened: Open, reports: dict[str, Report], name: str
) -> None:
    seen = opened(name)
    seen.page.wait_for_selector("#answer-params")
    took = seen.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    size = reports[name].path.stat().st_size
    print(f"{name}: loaded in {took:.0f} ms, {size / 1e6:.2f} MB")
    assert seen.errors == []
    assert seen.requests == [reports[name].path.as_uri()]
    assert size < 6e6


@pytest.mark.parametrize("name", NAMES)
def test_the_panel_answers_as_python_does(
    opened: Open, reports: dict[str, Report], name: str
) -> None:
    """Values and both ends of the intervals, to five digits: inside the runs and far beyond.

    A law that the page has no formula of is interpolated, to the error that the page states.
    """
    page, fit = opened(name).page, reports[name].fit
    rtol = 1e-5
    if name == "own":
        stated = page.locator("#results .note", has_text="interpolates").inner_text()
        rtol = 4 * float(re.findall(r"about ([\d.e-]+) %", stated)[0]) / 100
        assert rtol < 0.05
    smallest, largest = float(fit.runs.flops.min()), fit.largest_compute
    for C in (smallest / 5, (smallest * largest) ** 0.5, largest, 12 * largest, 900 * largest):
        set_field(page, "compute", C)
        expected = fit.predict(C)
        for row, quantity in ROWS.items():
            value = expected["expected_loss" if quantity == "run_loss" else quantity]
            wanted = [value, *(expected.intervals[quantity] or (np.nan, np.nan))]
            np.testing.assert_allclose(
                read_row(page, row), wanted, rtol=rtol, err_msg=f"{quantity} at {C:.3g}"
            )


@pytest.mark.parametrize("name", ["linear", "smooth", "draws", "counted"])
def test_use_is_counted_in_as_python_does(
    opened: Open, reports: dict[str, Report], name: str
) -> None:
    page, fit = opened(name).page, reports[name].fit
    for times, use in ((0.1, 0.3), (2, 3), (20, 3)):
        C = times * fit.largest_compute
        best = fit.predict(C)
        demand = use * best.optimal_tokens
        set_field(page, "compute", C)
        set_field(page, "use", demand)
        expected = fit.optimal_for_inference(best.expected_loss, demand)
        for row, quantity in (
            ("params", "params"),
            ("tokens", "tokens"),
            ("flops", "training_compute"),
            ("total", "total_compute"),
        ):
            wanted = [getattr(expected, quantity), *(expected.intervals[quantity] or (np.nan,) * 2)]
            np.testing.assert_allclose(
                read_row(page, row, 1), wanted, rtol=1e-4, err_msg=f"{quantity} at {C:.3g}"
            )


@pytest.mark.parametrize("name", ["linear", "counted"])
def test_an_answer_takes_no_time(opened: Open, reports: dict[str, Report], name: str) -> None:
    page, C = opened(name).page, 3 * reports[name].fit.largest_compute
    code = """([C, demand]) => {
        const fit = JSON.parse(document.getElementById("fit").textContent);
        const best = flopsFit.predict(fit, C).values;
        const time = (call) => Math.min(...Array.from({length: 8}, () => {
            const start = performance.now();
            call();
            return performance.now() - start;
        }));
        return [time(() => flopsFit.predict(fit, C)),
                time(() => flopsFit.forInference(fit, best.expected_loss, demand, C))];
    }"""
    took = page.evaluate(code, [C, 3 * reports[name].fit.predict(C).optimal_tokens])
    print(f"{name}: an answer in {took[0]:.0f} ms, with inference in {took[1]:.0f} ms more")
    assert took[0] < 100
    assert took[1] < 200  # half of that where nothing else runs


def test_hours_days_and_dollars_are_plain_arithmetic(opened: Open) -> None:
    page = opened().page
    C = 3e22
    set_field(page, "compute", C)
    for device, share, k, price in (("A100", 45, 64, 1.1), ("H100", 30, 8, 2.5), ("T4", 100, 1, 0)):
        page.select_option("#device", label=_label(page, device))
        for name, value in (("utilisation", share), ("devices", k), ("price", price)):
            set_field(page, name, value)
        peak = find_peak(device)
        assert peak is not None
        hours = C / ((peak.bf16 or peak.fp32 or 0) * 1e12 * share / 100) / 3600
        assert read_row(page, "hours")[0] == pytest.approx(hours, rel=1e-9)
        assert read_row(page, "days")[0] == pytest.approx(hours / 24 / k, rel=1e-9)
        assert read_row(page, "dollars")[0] == pytest.approx(hours * price, rel=1e-9)


def _label(page: Any, device: str) -> str:
    labels = page.locator("#device option").all_inner_texts()
    return next(label for label in labels if label.startswith(f"{device} ("))


def test_a_peak_of_ones_own_leaves_the_list(opened: Open) -> None:
    page = opened().page
    set_field(page, "peak", 500)
    assert page.input_value("#device") == ""
    set_field(page, "compute", 1e22)
    assert read_row(page, "hours")[0] == pytest.approx(1e22 / (500e12 * 0.3) / 3600)


def test_slider_and_field_say_the_same(opened: Open, reports: dict[str, Report]) -> None:
    page, fit = opened().page, reports["linear"].fit
    page.focus("#slider")
    page.keyboard.press("End")
    typed = float(page.input_value("#compute"))
    assert typed == pytest.approx(1000 * fit.largest_compute, rel=0.01)
    set_field(page, "compute", fit.largest_compute)
    spread = np.log(1e4 * fit.largest_compute / fit.runs.flops.min())
    share = np.log(10 * fit.largest_compute / fit.runs.flops.min()) / spread
    assert float(page.input_value("#slider")) == pytest.approx(1000 * share, abs=1)


def test_numbers_are_read_as_in_a_terminal_or_refused(opened: Open) -> None:
    page = opened().page
    for text, meaning in TYPED.items():
        expected = None if meaning is None else pytest.approx(meaning, rel=1e-12)
        read = float(page.evaluate("text => flopsFit.readNumber(text)", text))
        assert (None if np.isnan(read) else read) == expected, text


def test_shares_prices_and_budgets_are_read_as_people_write_them(opened: Open) -> None:
    page = opened().page
    for name, plain, written in (
        ("price", "2.5", "2,50"),
        ("price", "2", "$2"),
        ("utilisation", "40", "40 %"),
        ("compute", "1.5e20", "1,5e20"),
        ("compute", "1e20", "10^20"),
        ("compute", "3e20", "3×10²⁰"),
        ("use", "1e12", "1T"),
    ):
        set_field(page, name, plain)
        expected = page.inner_text("#answer-rows")
        set_field(page, name, written)
        assert page.inner_text(f"#{name}-fault") == ""
        assert page.inner_text("#answer-rows") == expected, written
    set_field(page, "price", "2,500")
    assert "2,500 may be 2500 or 2.5" in page.inner_text("#price-fault")


@pytest.mark.parametrize("name", ["linear", "counted"])
def test_the_example_beside_a_fault_is_one_that_works(opened: Open, name: str) -> None:
    page = opened(name).page
    for field in ("compute", "peak", "utilisation", "devices", "price", "use"):
        set_field(page, field, "abc")
        example = page.inner_text(f"#{field}-fault").split("such as ")[1]
        set_field(page, field, example)
        assert page.inner_text(f"#{field}-fault") == ""


@pytest.mark.parametrize("name", ["linear", "smooth", "counted"])
def test_the_page_warns_as_python_does(opened: Open, reports: dict[str, Report], name: str) -> None:
    """Above the runs and below them, in compute, N and D, and where the runs determine no interval."""
    page, fit = opened(name).page, reports[name].fit
    smallest, largest = float(fit.runs.flops.min()), fit.largest_compute
    for C in (smallest / 9, smallest / 2, (smallest * largest) ** 0.5, 5 * largest, 900 * largest):
        set_field(page, "compute", C)
        said = {d.code: d for d in fit.predict(C).diagnostics}
        shown = page.is_visible("#far")
        assert shown == bool({"extrapolation", "no_interval"} & set(said))
        if (far := said.get("extrapolation")) and "no_interval" not in said:
            assert page.get_attribute("#far", "class") == far.severity
            for part in ("compute", "N is", "D, "):
                assert (part in page.inner_text("#far")) == (part in far.message)


def test_how_far_a_number_is_extrapolated_is_said(opened: Open, reports: dict[str, Report]) -> None:
    page, fit = opened().page, reports["linear"].fit
    for times, kind in ((1.0, None), (5.0, "note"), (50.0, "warning"), (500.0, "critical")):
        set_field(page, "compute", times * fit.largest_compute)
        assert page.is_visible("#far") == (kind is not None)
        if kind:
            assert page.get_attribute("#far", "class") == kind
            assert f"{times:g} times the compute" in page.inner_text("#far")


def test_a_fit_not_to_be_trusted_says_so_beside_its_numbers(opened: Open) -> None:
    assert "Do not rely on these numbers" in opened("lines").page.inner_text("#results")


def test_an_input_that_cannot_be_meant_is_refused_in_words(opened: Open) -> None:
    page = opened().page
    before = read_row(page, "params")
    for name, value, told in (
        ("compute", "1e40", "expected 1.397e+17 to"),
        ("compute", "much", "expected a positive number, such as"),
        ("utilisation", "130", "100 % at most"),
        ("devices", "2.5", "whole number"),
        ("use", "-1", "or 0"),
    ):
        good = page.input_value(f"#{name}")
        set_field(page, name, value)
        assert told in page.inner_text(f"#{name}-fault")
        assert page.get_attribute(f"#{name}", "aria-invalid") == "true"
        assert read_row(page, "params") == before
        set_field(page, name, good)
        assert page.inner_text(f"#{name}-fault") == ""


def test_every_input_and_figure_has_a_name(opened: Open) -> None:
    page = opened("counted").page
    for kind in ("textbox", "slider", "combobox", "button", "application", "region"):
        found = page.get_by_role(kind)
        assert found.count() > 0, kind
        for i in range(found.count()):
            snapshot = found.nth(i).aria_snapshot().splitlines()[0]
            assert '"' in snapshot, snapshot


def test_a_point_under_the_pointer_says_its_run_and_values(
    opened: Open, reports: dict[str, Report]
) -> None:
    page, runs = opened("additive").page, reports["additive"].fit.runs
    mark = page.locator("svg[data-name=isoflop] [data-series^='C = 10²⁰|'] use").nth(3)
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    said = page.inner_text("figure .tip:not([hidden])").splitlines()
    place = runs.labels.index(said[0])
    assert said[2] == f"C = 1e+20, loss {runs.loss[place]:.4f}"
    assert float(said[-1].removeprefix("Held-out loss: ")) == pytest.approx(
        runs.loss[place], rel=1e-3
    )
    page.mouse.move(0, 0)
    assert page.locator("figure .tip:not([hidden])").count() == 0


def test_a_key_hides_its_series_by_mouse_and_by_keyboard(opened: Open) -> None:
    page = opened("additive").page
    series = page.locator("svg[data-name=params] [data-series='minimum of a parabola']").first
    key = page.get_by_role("button", name="show minimum of a parabola").nth(1)  # first: isoflop
    assert series.is_visible()
    key.click()
    assert (key.get_attribute("aria-pressed"), series.is_visible()) == ("false", False)
    page.keyboard.press("Enter")
    assert (key.get_attribute("aria-pressed"), series.is_visible()) == ("true", True)
    budget = page.locator("svg[data-name=isoflop] [data-series*='C = 10¹⁸']")
    page.locator("svg[data-name=isoflop]").get_by_role("button", name="show C = 10¹⁸").click()
    assert not any(budget.nth(i).is_visible() for i in range(budget.count()))


def test_a_figure_zooms_where_it_is_dragged_and_back(opened: Open) -> None:
    page = opened("additive").page
    svg = page.locator("svg[data-name=loss]")
    svg.scroll_into_view_if_needed()
    whole, box = svg.get_attribute("viewBox"), svg.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 180)
    page.mouse.up()
    shown = [float(v) for v in (svg.get_attribute("viewBox") or "").split()]
    scale = float((whole or "").split()[2]) / box["width"]
    # Wide enough for the part that was chosen, beside strips for the ticks.
    strip, chosen = 0.15 * shown[2], 100 * scale
    assert shown[0] + strip == pytest.approx(200 * scale, abs=3)
    assert shown[2] - strip == pytest.approx(chosen, abs=3)
    page.get_by_role("button", name="Reset zoom of Loss over compute").click()
    assert svg.get_attribute("viewBox") == whole
    svg.focus()
    page.keyboard.press("+")
    assert svg.get_attribute("viewBox") != whole
    marks = svg.locator("[data-series='best run of a budget'] use")
    for off, size in marks.evaluate_all(OFF_PLACE):
        assert off < 0.2
        assert size < 20
    page.keyboard.press("0")
    page.keyboard.press("ArrowRight")
    assert "Training compute C, FLOPs: " in page.inner_text("figure .tip:not([hidden])")


@pytest.mark.parametrize("name", ["isoflop", "loss", "surface", "residual_map", "backtest"])
def test_a_zoomed_figure_has_ticks_of_its_own_at_their_values(opened: Open, name: str) -> None:
    page = opened("additive").page
    svg = page.locator(f"svg[data-name={name}]")
    axes = json.loads(svg.get_attribute("data-axes") or "")
    svg.focus()
    for _ in range(8):
        page.keyboard.press("+")
        width = float((svg.get_attribute("viewBox") or "").split()[2])
        ticks = {"x": [], "y": []}
        for text in svg.locator(".ruler text").all():
            place = {key: float(text.get_attribute(key) or "") for key in ("x", "y")}
            which = "x" if text.get_attribute("text-anchor") == "middle" else "y"
            ticks[which].append((text.text_content() or "", place[which]))
        for which, found in ticks.items():
            axis, shrink = axes[which], width / 244.8
            if "names" in axis:
                known = {word: value for value, word in axis["names"]}
            for word, place in found:
                at = place - (2.4 * shrink if which == "y" else 0.0)
                share = (at - axis["at"][0]) / (axis["at"][1] - axis["at"][0])
                low, high = axis["limits"]
                value = low * (high / low) ** share if axis["log"] else low + share * (high - low)
                meant = known[word] if "names" in axis else _meaning(word)
                assert value == pytest.approx(meant, rel=1e-3, abs=1e-3 * abs(high - low))
            assert len({word for word, _ in found}) == len(found)
            assert len(found) <= 7
            assert "names" in axis or found
    page.keyboard.press("0")
    assert svg.locator(".ruler text").count() == 0


def _meaning(word: str) -> float:
    """A tick's number: with a suffix, or times a power of ten in small digits."""
    word = word.replace("−", "-")
    if "10" in word and word[-1] in "⁰¹²³⁴⁵⁶⁷⁸⁹":
        head, _, power = word.rpartition("10")
        raised = power.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-"))
        return float(head.rstrip("×") or 1) * 10.0 ** int(raised)
    scale = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(word[-1])
    return float(word[:-1]) * scale if scale else float(word)


def test_a_figure_downloads_as_drawing_picture_and_data(
    opened: Open, reports: dict[str, Report], tmp_path: Path
) -> None:
    page, fit = opened("additive").page, reports["additive"].fit
    drawn = {d.kind.name: d for d in report.ReportData(fit).drawn}
    got = {}
    for ending in ("SVG", "PNG", "CSV"):
        with page.expect_download() as waited:
            page.get_by_role("button", name=f"{ending} of Residuals by size").click()
        assert waited.value.suggested_filename == f"residuals.{ending.lower()}"
        got[ending] = Path(waited.value.path()).read_bytes()
    assert got["CSV"].decode() == drawn["residuals"].csv()
    assert got["PNG"][:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">2I", got["PNG"][16:24]) == (1020, 810)  # 300 dots an inch
    assert ElementTree.fromstring(got["SVG"]).tag == "{http://www.w3.org/2000/svg}svg"
    assert b"var(" not in got["SVG"]


def test_a_table_is_copied_with_tabs(opened: Open) -> None:
    page = opened("additive").page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#table").get_by_role("button", name="Copy table").click()
    rows = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert rows[0].split("\t")[:2] == ["Compute Budget", "Optimal N"]
    assert len(rows) == 6


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["smooth", "lines", "counted", "compared"])
def test_axe_finds_nothing_serious(opened: Open, name: str, scheme: str) -> None:
    page = opened(name, scheme=scheme).page
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run().then(r => r.violations)")
    bad = [
        (v["id"], v["impact"], [n["html"][:200] for n in v["nodes"][:3]])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert bad == []


@pytest.mark.parametrize("name", ["linear", "lines", "counted", "compared"])
def test_nothing_is_wider_than_a_phone(opened: Open, name: str) -> None:
    page = opened(name, width=390).page
    if name not in ("lines", "compared"):
        set_field(page, "use", 1e12)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_theme_can_be_changed_by_keyboard(opened: Open) -> None:
    page = opened(scheme="dark").page
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    assert page.inner_text("#theme") == "Light theme"
    page.focus("#theme")
    page.keyboard.press("Enter")
    assert page.evaluate(colour) == "rgb(255, 255, 255)" != dark
    assert page.inner_text("#theme") == "Dark theme"


def test_runs_sort_by_number_and_by_name(opened: Open, reports: dict[str, Report]) -> None:
    page, fit = opened("counted").page, reports["counted"].fit
    column = "#runs tbody td:nth-child({})"
    head = page.locator("#runs th", has_text="loss").first
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    shown = [float(v) for v in page.locator(column.format(6)).all_inner_texts()]
    assert shown == sorted(shown)
    assert head.get_attribute("aria-sort") == "ascending"
    assert len(shown) >= len(fit.runs)
    page.keyboard.press("Enter")
    assert [float(v) for v in page.locator(column.format(6)).all_inner_texts()] == shown[::-1]


def test_print_shows_all_rows_on_white(opened: Open) -> None:
    page = opened(scheme="dark").page
    page.emulate_media(media="print")
    style = "e => [e.scrollHeight, e.clientHeight]"
    inside, shown = page.locator("#table .scroll").evaluate(style)
    assert inside <= shown + 1
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.is_visible("nav")
