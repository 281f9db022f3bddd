// The page: theme, the what-if panel, tables that sort, buttons that copy.
"use strict";

(() => {
  const root = document.documentElement;
  const toggle = document.getElementById("theme");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { toggle.textContent = dark() ? "Light theme" : "Dark theme"; };
  toggle.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; nameTheme(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
  nameTheme();

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), body = head.closest("table").tBodies[0];
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => {
        const cell = row.cells[head.cellIndex];
        return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
      };
      const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
      const missing = (v) => v === "–" || Number.isNaN(v);
      const rows = [...body.rows].map((row) => [value(row), row]);
      rows.sort(([a], [b]) => missing(a) - missing(b) || (up ? 1 : -1) * compare(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }

  const source = document.getElementById("fit");
  if (!source) return;
  const fit = JSON.parse(source.textContent);
  const field = (id) => document.getElementById(id);
  const inputs = ["compute", "peak", "utilisation", "devices", "price", "use"].map(field);
  const [compute, peak, utilisation, devices, price, use] = inputs;
  const slider = field("slider"), device = field("device"), rows = field("answer-rows");

  const flops = (v) => exponential(Number(v.toPrecision(4)));
  const dollars = (v) => {
    if (v > 0 && v < 0.01) return "under $0.01";
    return v < 100 ? `$${v.toFixed(2)}` : `$${formatCount(v)}`;
  };
  const hours = (v) => (v > 0 && v < 0.01 ? "under 0.01" : formatCount(v));
  // Of days, in the unit that a person would take.
  const duration = (days) => {
    const seconds = days * 86400;
    if (seconds < 60) return seconds < 0.1 ? "under 0.1 s" : `${seconds.toPrecision(2)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
    return seconds < 48 * 3600 ? `${(seconds / 3600).toFixed(1)} h` : `${days < 1e4 ? days.toFixed(1) : formatCount(days)} d`;
  };
  const number = (input) => (input.value.trim() === "" ? 0 : flopsFit.readNumber(
    input === utilisation ? input.value.replace("%", "") : input === price ? input.value.replace("$", "") : input.value));

  // What is wrong with an input, "" where nothing is.
  const fault = (input) => {
    const value = number(input), zero = input === price || input === use, text = input.value.trim();
    if (text === "" && zero) return "";
    if (/^\d{1,3}[.,]\d{3}$/.test(text) && Number.isNaN(value)) {
      return `${text} may be ${text.replace(/[.,]/, "")} or ${Number(text.replace(",", "."))}: write one of them`;
    }
    if (!Number.isFinite(value) || value < 0 || (!zero && value === 0)) {
      return `expected a positive number${zero ? " or 0" : ""}, such as ${input.dataset.example}`;
    }
    if (input === utilisation && value > 100) return "expected a share of the peak, 100 % at most";
    if (input === devices && value !== Math.round(value)) return "expected a whole number";
    if (input === compute && (value < fit.smallest / 10.000001 || value > fit.reach * 1.000001)) {
      return `expected ${flops(fit.smallest / 10)} to ${flops(fit.reach)} FLOPs: `
        + "from a tenth of the smallest run to 1000 times the largest";
    }
    return "";
  };

  const cell = (value, span, show) => {
    const td = document.createElement("td");
    td.textContent = Number.isFinite(value) ? show(value) : "–";
    if (Number.isFinite(value)) td.dataset.value = value;
    if (span && Number.isFinite(value)) {
      const small = document.createElement("small");
      const [low, high] = span.map(show);
      small.textContent = low === high ? "" : ` ${low}–${high}`;
      [td.dataset.low, td.dataset.high] = span;
      td.append(small);
    }
    return td;
  };

  const answer = () => {
    let wrong = false;
    for (const input of inputs) {
      const text = fault(input);
      field(`${input.id}-fault`).textContent = text;
      input.setAttribute("aria-invalid", text ? "true" : "false");
      wrong = wrong || text !== "";
    }
    field("results").classList.toggle("stale", wrong);
    if (wrong) {
      field("said").textContent = "One input is not valid; the numbers below are for the last valid inputs.";
      return;
    }
    const C = number(compute), demand = number(use);
    const perHour = number(peak) * 1e12 * (number(utilisation) / 100) * 3600;
    const plain = flopsFit.predict(fit, C), best = plain.values;
    const served = demand > 0 ? flopsFit.forInference(fit, best.expected_loss, demand, C) : null;
    const useOf = (logN) => Math.exp(flopsFit.logFlops(fit.flops, logN)) / 3 * demand;
    const plainUse = demand > 0 ? useOf(Math.log(best.optimal_params)) : 0;
    const s = served ? served.values : null, sp = served ? served.spans : {};
    const scaled = (span, factor) => (span ? span.map((v) => v * factor) : null);
    const table = [
      ["params", "Parameters N", [best.optimal_params, plain.spans.optimal_params], s && [s.params, sp.params], formatCount],
      ["tokens", `Training ${fit.unit} D`, [best.optimal_tokens, plain.spans.optimal_tokens], s && [s.tokens, sp.tokens], formatCount],
      ["ratio", "D/N", [best.tokens_per_param, plain.spans.tokens_per_param], s && [s.tokens / s.params, null], formatCount],
      ["loss", "Loss, mean of runs", [best.expected_loss, plain.spans.expected_loss], s && [best.expected_loss, null], (v) => v.toPrecision(4)],
      ["run-loss", "Loss, one run", [best.run_loss, plain.spans.run_loss], s && [best.expected_loss, null], (v) => v.toPrecision(4)],
      ["flops", "Training FLOPs", [C, null], s && [s.training_compute, sp.training_compute], flops],
      ["hours", "GPU-hours to train", [C / perHour, null], s && [s.training_compute / perHour, scaled(sp.training_compute, 1 / perHour)], hours],
      ["days", `Time on ${number(devices)} GPU${number(devices) === 1 ? "" : "s"}`, [C / perHour / 24 / number(devices), null],
        s && [s.training_compute / perHour / 24 / number(devices), scaled(sp.training_compute, 1 / perHour / 24 / number(devices))], duration],
      ["dollars", "Training cost", [C / perHour * number(price), null],
        s && [s.training_compute / perHour * number(price), scaled(sp.training_compute, number(price) / perHour)], dollars],
    ];
    if (demand > 0) {
      const whole = C + plainUse;
      table.push(
        ["total", "FLOPs of training and inference", [whole, null], s && [s.total_compute, sp.total_compute], flops],
        ["total-dollars", "Cost of training and inference", [whole / perHour * number(price), null],
          s && [s.total_compute / perHour * number(price), scaled(sp.total_compute, number(price) / perHour)], dollars],
      );
    }
    field("with-use").hidden = !served;
    rows.replaceChildren(...table.map(([id, name, one, two, show]) => {
      const tr = document.createElement("tr"), th = document.createElement("th");
      tr.id = `answer-${id}`;
      th.scope = "row";
      th.textContent = name;
      tr.append(th, cell(...one, show));
      if (served) tr.append(two ? cell(...two, show) : cell(NaN, null, show));
      return tr;
    }));
    field("said").textContent = `${flops(C)} FLOPs: ${formatCount(best.optimal_params)} parameters on ${formatCount(best.optimal_tokens)} ${fit.unit}`
      + (Number.isFinite(best.expected_loss) ? `, loss ${best.expected_loss.toPrecision(4)}` : "")
      + `; ${hours(C / perHour)} GPU-hours, ${dollars(C / perHour * number(price))}.`;
    const far = flopsFit.offRuns(fit, C, best), warning = field("far");
    const unsure = fit.form === "draws" ? table.slice(0, 5).filter((row) => !row[2][1]).map((row) => row[1]) : [];
    warning.hidden = !far && !unsure.length;
    warning.className = unsure.length && !(far && far.grade === "critical") ? "warning" : far ? far.grade : "";
    warning.textContent = (far ? `${far.text} ${{
      critical: "Nothing in the runs can check such a number: always state it with this warning.",
      warning: "The form of the law decides there, and the interval rests on how much sweeps have departed from it.",
      note: "That is a common extrapolation; the interval allows for the misfit of the law.",
    }[far.grade]}` : "") + (unsure.length ? ` The runs do not determine ${unsure.join(", ")}: no interval.` : "");
  };

  const span = [Math.log10(fit.smallest / 10), Math.log10(fit.reach)];
  const toSlider = () => {
    slider.value = (1000 * (Math.log10(number(compute)) - span[0])) / (span[1] - span[0]);
    slider.setAttribute("aria-valuetext", `${compute.value} FLOPs`);
  };
  slider.addEventListener("input", () => {
    const value = 10 ** (span[0] + (slider.value / 1000) * (span[1] - span[0]));
    compute.value = exponential(value, 2);
    slider.setAttribute("aria-valuetext", `${compute.value} FLOPs`);
    answer();
  });
  compute.addEventListener("input", () => { if (!fault(compute)) toSlider(); });
  device.addEventListener("change", () => {
    if (device.value) { peak.value = device.value; answer(); }
  });
  peak.addEventListener("input", () => { if (number(peak) !== Number(device.value)) device.value = ""; });
  for (const input of inputs) input.addEventListener("input", answer);
  toSlider();
  answer();
})();
