// Figures: values under the pointer, keys that hide series, zoom, downloads. An SVG says what it holds: groups with
// data-series (names, "|" between them) and data-key, and data-axes, where its axes lie and from where to where they go.
"use strict";

// A power of ten of two digits, as Python writes it.
const exponential = (v, digits) => v.toExponential(digits).replace(/([+-])(\d)$/, "$10$2");
// A number as the tables of the page have it: three digits with their zeros, and a suffix.
const formatCount = (v) => {
  if (!Number.isFinite(v)) return "–";
  for (const [limit, suffix] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (v >= limit && v < 1e15) return (v / limit >= 999.5 ? (v / limit).toFixed(0) : (v / limit).toPrecision(3)) + suffix;
  }
  const size = Math.abs(v);
  return size >= 1e3 || (size > 0 && size < 1e-3) ? exponential(Number(v.toPrecision(3))) : v.toPrecision(3);
};

// Round numbers between two and their words, six at most, four of long ones.
const ticksOf = (low, high, log, label) => {
  const most = log && /FLOPs/.test(label) ? 4 : 6;
  const decades = (digits) => {
    const all = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
      for (const d of digits) if (d * 10 ** p >= low && d * 10 ** p <= high) all.push(Number(`${d}e${p}`));
    }
    return all;
  };
  let ticks = log && high > 4 * low ? [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]].map(decades).find((all) => all.length <= most) : null, digits = 0;
  if (!ticks) {
    const rough = (high - low) / (most - 1), power = Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].find((s) => s * 10 ** power >= rough * 0.999) * 10 ** power;
    ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) ticks.push(Number((i * step).toPrecision(12)));
    digits = Math.max(0, ...ticks.map((v) => (String(v).split(/e/)[0].split(".")[1] || "").length));
  }
  const word = (v) => {
    const plain = (x) => String(Number(x.toPrecision(9)));
    if (most === 4) {
      const [head, power] = v.toExponential(8).split("e"), raised = [...String(Number(power))].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("");
      return Number(head) === 1 ? `10${raised}` : `${plain(Number(head))}×10${raised}`;
    }
    const [limit, suffix] = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]].find(([least]) => log && v >= least) || [1, ""];
    return (log ? plain(v / limit) + suffix : v.toFixed(digits)).replace("-", "−");
  };
  return ticks.map((v) => [v, word(v)]);
};

(() => {
  const words = document.getElementById("run-words");
  const runs = words ? JSON.parse(words.textContent) : [];
  const svgNode = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };

  const save = (name, type, content) => {
    const link = document.createElement("a");
    link.download = name;
    link.href = typeof content === "string" ? URL.createObjectURL(new Blob([content], { type })) : content.href;
    link.click();
  };

  const start = (figure) => {
    const svg = figure.querySelector("svg");
    const full = svg.getAttribute("viewBox").split(" ").map(Number), axes = JSON.parse(svg.dataset.axes);
    const tip = figure.appendChild(document.createElement("div"));
    tip.className = "tip";
    tip.setAttribute("role", "status");
    tip.hidden = true;
    const ring = svg.appendChild(svgNode("circle", { r: 4, class: "ring", visibility: "hidden" }));
    const sized = [], symbols = [...svg.querySelectorAll("defs path")];
    for (const drawn of svg.querySelectorAll("path[style*=stroke], [data-series][style*=stroke], text")) {
      if (drawn.closest("defs, use") || drawn.querySelector("use")) continue; // these are symbols
      const key = drawn.tagName === "text" ? "fontSize" : "strokeWidth";
      drawn.dataset[key] = parseFloat(drawn.style[key]) || 1;
      sized.push([drawn, key]);
    }
    let view = full, points = null, lines = null, at = -1, dragged = null;

    // Every point and line that is shown, read when they are first asked for.
    const read = () => {
      points = [];
      lines = [];
      for (const group of svg.querySelectorAll("[data-series]:not([data-band])")) {
        if (group.style.display === "none") continue;
        const name = group.dataset.series.split("|").join(" · "), tips = JSON.parse(group.dataset.tips || "[]");
        const marks = [...group.querySelectorAll("use")], paths = [...group.querySelectorAll("path")].filter((p) => !p.closest("defs"));
        marks.forEach((mark, i) => {
          points.push({ x: Number(mark.getAttribute("x")), y: Number(mark.getAttribute("y")), name, tip: marks.length === tips.length ? tips[i] : undefined });
        });
        paths.forEach((path, i) => {
          let last = null;
          for (const [, kind, x, y] of path.getAttribute("d").matchAll(/([ML]) ?(-?[\d.]+) (-?[\d.]+)/g)) {
            const here = [Number(x), Number(y)];
            if (kind === "L") lines.push({ from: last, to: here, name, tip: tips[i] });
            last = here;
          }
        });
      }
      points = points.filter(inside);
      points.sort((a, b) => a.x - b.x || a.y - b.y);
    };
    const within = (value, [a, b]) => value >= Math.min(a, b) - 0.5 && value <= Math.max(a, b) + 0.5;
    const inside = (p) => within(p.x, axes.x.at) && within(p.y, axes.y.at);

    const value = (axis, place) => {
      const [a, b] = axis.at, [low, high] = axis.limits, share = (place - a) / (b - a);
      return axis.log ? low * (high / low) ** share : low + share * (high - low);
    };
    const placeOf = (axis, v) => {
      const [a, b] = axis.at, [low, high] = axis.limits;
      return a + (axis.log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low)) * (b - a);
    };
    const scale = () => svg.getBoundingClientRect().width / view[2];
    const show = (point) => {
      tip.hidden = !point;
      ring.setAttribute("visibility", point ? "visible" : "hidden");
      if (!point) return;
      ring.setAttribute("cx", point.x);
      ring.setAttribute("cy", point.y);
      const said = [typeof point.tip === "number" ? runs[point.tip] : point.tip || point.name];
      for (const axis of [axes.x, axes.y].filter((one) => one.label)) {
        const v = value(axis, axis === axes.x ? point.x : point.y);
        said.push(`${axis.label}: ${axis.log ? formatCount(v) : v.toPrecision(4)}`);
      }
      tip.textContent = said.join("\n");
      const room = figure.getBoundingClientRect(), box = svg.getBoundingClientRect();
      const x = box.x - room.x + (point.x - view[0]) * scale(), y = box.y - room.y + (point.y - view[1]) * scale();
      tip.style.left = `${Math.max(0, Math.min(x + 12, room.width - tip.offsetWidth))}px`;
      tip.style.top = `${y > tip.offsetHeight + 12 ? y - tip.offsetHeight - 8 : y + 14}px`;
    };

    const place = (event) => {
      const box = svg.getBoundingClientRect();
      return [view[0] + (event.clientX - box.x) / scale(), view[1] + (event.clientY - box.y) / scale()];
    };
    // The nearest point within reach, else the nearest place on a line.
    const nearest = ([x, y]) => {
      if (!points) read();
      let best = null, least = 9 / scale();
      for (const p of points) {
        const away = Math.hypot(p.x - x, p.y - y);
        if (away < least) [best, least] = [p, away];
      }
      if (best) return best;
      for (const { from, to, name, tip: said } of lines) {
        const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
        const share = Math.max(0, Math.min(1, ((x - from[0]) * dx + (y - from[1]) * dy) / (dx * dx + dy * dy || 1)));
        const p = { x: from[0] + share * dx, y: from[1] + share * dy, name, tip: said };
        const away = Math.hypot(p.x - x, p.y - y);
        if (away < least && inside(p)) [best, least] = [p, away];
      }
      return best;
    };

    // A part of the figure has ticks of its own, on strips at its left and its bottom.
    const STRIP = [0.15, 0.075];
    const ruler = svg.appendChild(svgNode("g", { class: "ruler" }));
    const grid = svg.insertBefore(svgNode("g", {}), svg.querySelector("[id$='figure_1']"));
    const drawTicks = () => {
      ruler.replaceChildren();
      grid.replaceChildren();
      for (const whole of svg.querySelectorAll("[id$='axes_1'] > [id*='matplotlib.axis']")) whole.style.display = view === full ? "" : "none";
      if (view === full) return;
      const [x, y, width, height] = view, shrink = width / full[2];
      const left = x + STRIP[0] * width, bottom = y + (1 - STRIP[1]) * height;
      const paper = { style: "fill: var(--cffffff, #ffffff); fill-opacity: .9" };
      const strips = [[x, y, left - x, height], [left, bottom, x + width - left, y + height - bottom]];
      const marks = [];
      for (const [axis, ends, across] of [[axes.x, [left, x + width], true], [axes.y, [bottom, y], false]]) {
        const sides = [...axis.at].sort((a, b) => a - b), shown = ends.map((v) => value(axis, Math.min(Math.max(v, sides[0]), sides[1])));
        if (shown[0] === shown[1]) continue;
        const ticks = axis.names ? axis.names.filter(([v]) => v >= shown[0] && v <= shown[1]) : ticksOf(...shown, axis.log, axis.label);
        for (const [v, word] of ticks) {
          const at = placeOf(axis, v), line = across ? { x1: at, x2: at, y1: y, y2: bottom } : { x1: left, x2: x + width, y1: at, y2: at };
          grid.append(svgNode("line", { ...line, style: `stroke: var(--ce6e6e6, #e6e6e6); stroke-width: ${0.5 * shrink}` }));
          const spot = across ? { x: at, y: bottom + 9 * shrink, "text-anchor": "middle" } : { x: left - 3 * shrink, y: at + 2.4 * shrink, "text-anchor": "end" };
          const text = svgNode("text", { ...spot, style: `font-size: ${6.5 * shrink}px; font-family: 'DejaVu Sans', sans-serif; fill: var(--c222222, #222222)` });
          text.textContent = word;
          const cut = across ? at + 2 * word.length * shrink > x + width : at - 5 * shrink < y;
          if (!cut) marks.push(text);
        }
      }
      for (const [sx, sy, w, h] of strips) ruler.append(svgNode("rect", { x: sx, y: sy, width: w, height: h, ...paper }));
      ruler.append(...marks);
    };
    const zoom = (next) => {
      view = next;
      svg.setAttribute("viewBox", view.join(" "));
      // Marks, lines and words keep their size on the screen.
      const shrink = view[2] / full[2];
      for (const symbol of symbols) symbol.setAttribute("transform", `scale(${shrink})`);
      for (const [drawn, key] of sized) drawn.style[key] = `${drawn.dataset[key] * shrink}px`;
      drawTicks();
      reset.hidden = view === full;
      show(null);
    };
    const zoomBy = (factor, [x, y]) => {
      const width = Math.max(full[2] / 64, view[2] * factor), share = width / view[2];
      if (width >= full[2]) return zoom(full);
      return zoom([x - (x - view[0]) * share, y - (y - view[1]) * share, width, view[3] * share]);
    };

    svg.addEventListener("pointermove", (event) => {
      const here = place(event);
      if (!dragged) return show(nearest(here));
      const [x, y] = [Math.min(here[0], dragged.from[0]), Math.min(here[1], dragged.from[1])];
      const [width, height] = [Math.abs(here[0] - dragged.from[0]), Math.abs(here[1] - dragged.from[1])];
      for (const [key, size] of Object.entries({ x, y, width, height })) dragged.box.setAttribute(key, size);
      dragged.area = [x, y, width, height];
      return show(null);
    });
    svg.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch") return show(nearest(place(event))); // a finger that moves scrolls the page
      if (event.button !== 0 || event.target.closest("[data-key]")) return;
      dragged = { from: place(event), box: svg.appendChild(svgNode("rect", { class: "drag" })), area: [0, 0, 0, 0] };
      svg.setPointerCapture(event.pointerId);
      svg.style.userSelect = "none"; // the drag chooses a part, not words
    });
    svg.addEventListener("pointerup", () => {
      if (!dragged) return;
      const [x, y, width, height] = dragged.area;
      dragged.box.remove();
      dragged = null;
      svg.style.userSelect = "";
      if (width * scale() < 8 || height * scale() < 8) return;
      // Room for the strips of ticks beside what was chosen.
      const wide = Math.max(width / (1 - STRIP[0]), (height / (1 - STRIP[1])) * full[2] / full[3]), high = wide * full[3] / full[2];
      const [across, down] = [wide * (1 - STRIP[0]), high * (1 - STRIP[1])];
      zoom([x + width / 2 - across / 2 - wide * STRIP[0], y + height / 2 - down / 2, wide, high]);
    });
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") show(null); });
    svg.addEventListener("dblclick", () => zoom(full));
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoomBy(1.25 ** Math.sign(event.deltaY), place(event));
    }, { passive: false });

    svg.setAttribute("role", "application");
    svg.setAttribute("tabindex", 0);
    svg.setAttribute("aria-keyshortcuts", "ArrowLeft ArrowRight + - 0");
    svg.addEventListener("keydown", (event) => {
      if (event.target !== svg || event.ctrlKey || event.metaKey || event.altKey) return;
      if (!points) read();
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], current = points[at];
      const centre = current ? [current.x, current.y] : [view[0] + view[2] / 2, view[1] + view[3] / 2];
      if (step && points.length) {
        at = (at + step + points.length) % points.length;
        show(points[at]);
      } else if (event.key === "+" || event.key === "=") zoomBy(0.8, centre);
      else if (event.key === "-") zoomBy(1.25, centre);
      else if (event.key === "0" || event.key === "Escape") zoom(full);
      else return;
      event.preventDefault();
    });
    svg.addEventListener("blur", () => { at = -1; show(null); });

    const hidden = new Set();
    const shown = (element) => !element.dataset.series.split("|").some((name) => hidden.has(name));
    const all = [...svg.querySelectorAll("[data-series]")], keys = [...svg.querySelectorAll("[data-key]")];
    for (const key of keys) {
      const name = key.dataset.key;
      if (!all.some((element) => element.dataset.series.split("|").includes(name))) continue;
      const flip = () => {
        hidden[hidden.has(name) ? "delete" : "add"](name);
        for (const element of all) element.style.display = shown(element) ? "" : "none";
        for (const other of keys) {
          if (other.dataset.key !== name) continue;
          other.style.opacity = hidden.has(name) ? 0.35 : "";
          if (other.hasAttribute("role")) other.setAttribute("aria-pressed", !hidden.has(name));
        }
        points = null;
        at = -1;
        show(null);
      };
      key.classList.add("key");
      key.addEventListener("click", flip);
      if (!key.querySelector("text")) continue; // one of the two parts of a key is enough for the keyboard
      for (const [attribute, set] of Object.entries({ role: "button", tabindex: 0, "aria-pressed": true, "aria-label": `show ${name}` })) key.setAttribute(attribute, set);
      key.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        flip();
      });
    }

    // The figure as it is seen, in the colours of paper.
    const drawing = () => {
      const copy = svg.cloneNode(true);
      copy.querySelector(".ring").remove();
      const [, , width, height] = full;
      for (const [key, size] of Object.entries({ width: `${width}pt`, height: `${height}pt` })) copy.setAttribute(key, size);
      return new XMLSerializer().serializeToString(copy).replace(/var\(--c[0-9a-f]{6}, ?(#[0-9a-f]{6})\)/g, "$1");
    };
    const picture = () => {
      const image = new Image(), canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [full[2], full[3]].map((size) => Math.round((size / 72) * 300));
      image.onload = () => {
        const paper = canvas.getContext("2d");
        paper.fillStyle = "#ffffff";
        paper.fillRect(0, 0, canvas.width, canvas.height);
        paper.drawImage(image, 0, 0, canvas.width, canvas.height);
        save(`${svg.dataset.name}.png`, "", { href: canvas.toDataURL("image/png") });
      };
      image.src = `data:image/svg+xml,${encodeURIComponent(drawing())}`;
    };
    const tools = document.createElement("p");
    tools.className = "tools";
    svg.after(tools);
    const button = (text, act, label = `${text} of ${figure.querySelector("h3").textContent}`) => {
      const made = tools.appendChild(document.createElement("button"));
      made.type = "button";
      made.textContent = text;
      made.setAttribute("aria-label", label);
      made.addEventListener("click", act);
      return made;
    };
    button("SVG", () => save(`${svg.dataset.name}.svg`, "image/svg+xml", drawing()));
    button("PNG", picture);
    const rows = figure.querySelector("script");
    if (rows) button("CSV", () => save(`${svg.dataset.name}.csv`, "text/csv", JSON.parse(rows.textContent)));
    const reset = button("Reset zoom", () => zoom(full));
    reset.hidden = true;
  };
  for (const figure of document.querySelectorAll("figure")) if (figure.querySelector("svg[data-axes]")) start(figure);

  for (const table of document.querySelectorAll("main table:not(.live)")) {
    if (!navigator.clipboard) break;
    const copy = document.createElement("button"), box = table.closest(".scroll");
    copy.type = "button";
    copy.className = "copy";
    copy.textContent = "Copy table";
    copy.addEventListener("click", async () => {
      const cells = (row) => [...row.cells].map((cell) => cell.textContent.trim()).join("\t");
      await navigator.clipboard.writeText([...table.rows].map(cells).join("\n"));
      copy.textContent = "Copied";
    });
    box.after(copy);
  }
})();
