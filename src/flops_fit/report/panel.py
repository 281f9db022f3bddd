"""The what-if panel: any budget, device and price, computed in the page from the fitted law."""

from __future__ import annotations

import html
import json

from flops_fit.fit.export import export_fit
from flops_fit.peaks import DEVICES, peak_by_short_name
from flops_fit.plan.cost import ASSUMED_MFU
from flops_fit.report.elements import paragraph
from flops_fit.report.figures import ReportData
from flops_fit.report.table import verdict

_DEVICE = "H100"
_PRICE = 2.0  # dollars an hour: an example to be typed over


def panel(m: ReportData) -> str:
    """Inputs, an empty table that the page fills, and the law's numbers."""
    _ = m.paths  # has F counted at all sizes that the panel will ask about
    values = export_fit(m.fit, m.level)
    served = values["form"] == "kappa"
    start = m.predictions[-1].target_compute
    start = min(max(start, values["smallest"] / 10), values["reach"])
    low, high = f"{values['smallest'] / 10:.2g}", f"{values['reach']:.2g}"
    data = json.dumps(_finite(values), separators=(",", ":"), allow_nan=False)
    data = data.replace("<", "\\u003c")
    unit = html.escape(m.fit.runs.unit)
    use = f"{unit.capitalize()} of use, expected over the model's life"
    fields = [
        '<div class="field"><label for="compute">Compute budget, training FLOPs</label>'
        f'<input id="compute" type="text" inputmode="decimal" autocomplete="off" value="{start:.6g}" '
        'data-example="1e22" aria-describedby="compute-fault compute-hint">'
        '<input id="slider" type="range" min="0" max="1000" value="0" '
        'aria-label="Compute budget on a logarithmic scale">'
        f'<small id="compute-hint">{low} to {high}; the largest run had {m.fit.largest_compute:.3g}</small>'
        '<span class="fault" id="compute-fault"></span></div>',
        f'<div class="field"><label for="device">GPU</label><select id="device">{_devices()}</select></div>',
        '<div class="pair">',
        _field("peak", "Peak, TFLOP/s", f"{_peak(_DEVICE):g}", "989"),
        _field("utilisation", "Utilisation, %", f"{100 * ASSUMED_MFU:g}", "30"),
        _field("devices", "GPUs at once", "8", "8"),
        _field("price", "$ per GPU-hour", f"{_PRICE:g}", "2"),
        "</div>",
        _field("use", use, "0" if served else "", "1e12", enabled=served),
    ]
    return (
        '<div class="panel"><form class="inputs" onsubmit="return false" aria-label="What if">'
        + "".join(fields)
        + '</form><div id="results"><p id="said" role="status" aria-live="polite"></p>'
        '<p id="far" hidden></p>'
        '<div class="scroll" role="region" tabindex="0" aria-label="Answer for these inputs">'
        f"<table><caption><span>{html.escape(_caption(m))}</span></caption>"
        '<thead><tr><th scope="col">Quantity</th>'
        '<th scope="col">Compute-optimal</th>'
        '<th scope="col" id="with-use" hidden>Same loss, cheapest with use</th></tr></thead>'
        '<tbody id="answer-rows"></tbody></table></div>'
        f"{_trust(m)}{''.join(paragraph(t, 'note') for t in _notes(m, values))}"
        "</div></div>"
        "<noscript><p>These numbers need JavaScript; the table above does not.</p></noscript>"
        f'<script type="application/json" id="fit">{data}</script>'
    )


def _field(name: str, label: str, value: str, example: str, *, enabled: bool = True) -> str:
    off = "" if enabled else " disabled"
    return (
        f'<div class="field"><label for="{name}">{label}</label>'
        f'<input id="{name}" type="text" inputmode="decimal" autocomplete="off" value="{value}" '
        f'data-example="{example}" aria-describedby="{name}-fault"{off}>'
        f'<span class="fault" id="{name}-fault"></span></div>'
    )


def _peak(name: str) -> float:
    peak = peak_by_short_name(name)
    if peak is None:
        raise ValueError(f"expected a listed device; got {name!r}.")
    return peak.bf16 or peak.tf32 or peak.fp32 or 0.0


def _devices() -> str:
    items = []
    for name in DEVICES:
        peak = peak_by_short_name(name)
        kind = "bf16" if peak is not None and peak.bf16 else "fp32"
        chosen = " selected" if name == _DEVICE else ""
        items.append(
            f'<option value="{_peak(name):g}"{chosen}>{name} ({_peak(name):g} TFLOP/s {kind})</option>'
        )
    return '<option value="">other: type its peak</option>' + "".join(items)


def _caption(m: ReportData) -> str:
    return (
        f"Beside the numbers: {100 * m.level:g} % intervals, where there are honest ones. A time is "
        "FLOPs over peak times utilisation; peaks are of dense matrix products by data sheets."
    )


def _trust(m: ReportData) -> str:
    trust = verdict(m.fit, m.findings)
    if trust == "ok":
        return ""
    if trust == "caution":
        return paragraph("Use these numbers with caution: see the findings below.", "warning")
    return paragraph(
        "Do not rely on these numbers: the fit is not to be trusted, see the findings below.",
        "critical",
    )


def _notes(m: ReportData, values: dict[str, object]) -> list[str]:
    notes = []
    if values["form"] == "kappa":
        notes.append(
            "The page computes from the fitted law, its FLOPs per unit and the covariance of its "
            "constants, as flops-fit does. Use costs a third of F(N) a unit, the forward pass, at the "
            "same utilisation and price; the cheapest model with use reaches the loss of the "
            "compute-optimal one."
        )
    elif isinstance(points := values.get("log_compute"), list):
        notes.append(
            f"The page interpolates between predictions that flops-fit made at {len(points)} budgets: the "
            f"numbers differ from its own by {100 * float(str(values['error'])):.1g} % at most. Use "
            "cannot be counted in for this form of law."
        )
    else:
        notes.append(
            "The numbers are of lines through minima, as the surface could not be fitted: they have no "
            "intervals, and use cannot be counted in."
        )
    return notes


def _finite(value: object) -> object:
    """JSON knows no infinity: what is not finite becomes null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
