// What Python's fit.predict(C) and fit.optimal_for_inference compute, from the numbers of
// flops_fit.fit.export_fit. A law is [E, ln A, ln B, alpha, beta, kappa].
"use strict";

const flopsFit = (() => {
  const addLogs = (a, b) => {
    const top = Math.max(a, b);
    return top + Math.log1p(Math.exp(Math.min(a, b) - top));
  };

  const lossAt = (law, logN, logD) => {
    const inside = addLogs(law[1] - law[3] * logN, law[2] - law[4] * logD);
    return law[0] + Math.exp(Math.min(law[5] * inside, 690));
  };

  // ln N of the size that reaches a loss on D units; NaN where none does.
  const sizeFor = (law, loss, logD) => {
    const total = Math.log(loss - law[0]) / law[5];
    const gap = law[2] - law[4] * logD - total;
    if (!(gap < 0)) return NaN;
    return (law[1] - total - Math.log1p(-Math.exp(gap))) / law[3];
  };

  // Linear between points, flat beyond the outermost.
  const between = (x, xs, ys) => {
    if (x <= xs[0]) return ys[0];
    const last = xs.length - 1;
    if (x >= xs[last]) return ys[last];
    let low = 0, high = last;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] <= x) low = middle; else high = middle;
    }
    const share = (x - xs[low]) / (xs[high] - xs[low]);
    return ys[low] + share * (ys[high] - ys[low]);
  };

  // The cubic through the four points around x, on an even grid.
  const cubic = (x, xs, ys) => {
    const last = xs.length - 1, step = (xs[last] - xs[0]) / last;
    const first = Math.max(0, Math.min(last - 3, Math.floor((x - xs[0]) / step) - 1));
    const t = (x - xs[first]) / step;
    return -(t - 1) * (t - 2) * (t - 3) / 6 * ys[first] + t * (t - 2) * (t - 3) / 2 * ys[first + 1]
      - t * (t - 1) * (t - 3) / 2 * ys[first + 2] + t * (t - 1) * (t - 2) / 6 * ys[first + 3];
  };

  // ln F of ln N: training FLOPs per unit.
  const logFlops = (flops, logN) => {
    if (flops.kind === "linear") return Math.log(flops.k) + logN;
    if (flops.kind === "smooth") {
      const size = Math.max(Math.exp(logN), 0.1 * flops.n_min);
      return logN + Math.log(flops.k + flops.c * (size / flops.n0) ** -flops.p);
    }
    return logN + between(logN, flops.log_size, flops.log_ratio);
  };

  // Where a curve is lowest: a grid, refined, then a parabola. Kinks of F cannot lead it astray.
  const lowest = (curve, start) => {
    const best = (centre, step, reach) => {
      let at = centre, least = Infinity;
      for (let i = -reach; i <= reach; i += 1) {
        const value = curve(centre + i * step);
        if (value < least) { least = value; at = centre + i * step; }
      }
      return at;
    };
    let centre = best(start, 1, 5);
    if (Math.abs(centre - start) > 4.5) centre = best(start, 1, 30);
    for (let step = 1 / 8; step > 2e-4; step /= 4) centre = best(centre, step, 8);
    const h = 1e-3;
    for (let i = 0; i < 2; i += 1) {
      const [down, here, up] = [curve(centre - h), curve(centre), curve(centre + h)];
      const bend = up - 2 * here + down;
      if (bend > 0 && Math.max(up, here, down) < 1e100) {
        centre += Math.max(-h, Math.min(h, (-0.5 * h * (up - down)) / bend));
      }
    }
    return centre;
  };

  const optimum = (law, flops, logC) => {
    const total = law[3] + law[4];
    let logN = 0.5 * (logC - Math.log(120));
    for (let i = 0; i < 3; i += 1) {
      const perParam = logFlops(flops, logN) - logN;
      logN = (Math.log(law[3] / law[4]) + law[1] - law[2]) / total
        + (law[4] / total) * (logC - perParam);
      logN = Math.max(-300, Math.min(300, logN));
    }
    if (flops.kind !== "linear") {
      logN = Math.max(0, Math.min(92, logN));
      logN = lowest((n) => lossAt(law, n, logC - logFlops(flops, n)), logN);
    }
    const logD = logC - logFlops(flops, logN);
    return { logN, logD, loss: lossAt(law, logN, logD) };
  };

  // The N and D that reach a loss with the least compute for training and use; a unit of use costs
  // a third of a unit of training, the forward pass.
  const withUse = (law, flops, loss, demand, nearLogC) => {
    if (!(loss > law[0])) return null;
    let low = nearLogC - 40, high = nearLogC + 40;
    for (let i = 0; i < 80; i += 1) {
      const middle = 0.5 * (low + high);
      if (optimum(law, flops, middle).loss <= loss) high = middle; else low = middle;
    }
    if (high > nearLogC + 39) return null;
    const plain = optimum(law, flops, high);
    const cost = (logD) => {
      const logN = sizeFor(law, loss, logD);
      if (logD <= plain.logD - 1 || Number.isNaN(logN)) return 1e200;
      const logF = logFlops(flops, logN);
      return addLogs(logF + logD, logF + Math.log(demand / 3));
    };
    const logD = lowest(cost, plain.logD);
    const logN = sizeFor(law, loss, logD);
    const logF = logFlops(flops, logN);
    return { logN, logD, training: logF + logD, use: logF + Math.log(demand / 3) };
  };

  // Each drawn surface: its law and the weights of its misfit, in parts that share knots.
  const drawsOf = (fit) => {
    if (fit.drawn) return fit.drawn;
    let first = 0;
    fit.drawn = fit.surfaces.parts.map((part) => {
      const bytes = Uint8Array.from(atob(part.weights), (c) => c.charCodeAt(0));
      const weights = new Float32Array(bytes.buffer), size = weights.length / part.draws;
      const draws = Array.from({ length: part.draws }, (_, i) => ({
        law: fit.surfaces.laws[first + i],
        run: fit.surfaces.run[first + i],
        weights: weights.subarray(i * size, (i + 1) * size),
      }));
      first += part.draws;
      return { part, draws };
    });
    return fit.drawn;
  };

  const kernel = (at, knots, length) => {
    const x = Math.max(knots[0], Math.min(knots[knots.length - 1], at));
    return knots.map((k) => Math.exp(-0.5 * ((x - k) / length) ** 2));
  };

  // What the weights of a misfit multiply at one point.
  const basis = (part, logN, logD) => {
    const along = kernel(logN + logD, part.s, part.length);
    const across = kernel(logN - logD, part.v, part.length);
    const drift = kernel(logN + logD, part.drift, part.drift_length);
    const out = new Float64Array(along.length * across.length + drift.length);
    let k = 0;
    for (const a of along) for (const b of across) out[k++] = a * b;
    for (const a of drift) out[k++] = a;
    return out;
  };

  const addTo = (fit, loss, g) => (fit.surfaces.log ? loss * Math.exp(g) : loss + g);

  const surfaceAt = (fit, draw, phi, logN, logD) => {
    let g = 0;
    for (let k = 0; k < phi.length; k += 1) g += phi[k] * draw.weights[k];
    return addTo(fit, lossAt(draw.law, logN, logD), g);
  };

  const even = (low, high, count) => Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));

  const leastOf = (values) => values.reduce((best, v, i) => (v < values[best] ? i : best), 0);

  // The middle and, at a level, both ends of draws; an interval that is not finite is null.
  const summary = (draws, level) => {
    const sorted = Float64Array.from(draws, (v) => (Number.isNaN(v) ? Infinity : v)).sort();
    const quantile = (share) => {
      const place = share * (sorted.length - 1), below = Math.floor(place);
      const above = Math.min(below + 1, sorted.length - 1);
      return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
    };
    const span = [quantile(0.5 - level / 2), quantile(0.5 + level / 2)];
    return { middle: quantile(0.5), span: span.every(Number.isFinite) ? span : null };
  };

  // ln N of the lowest point of a bowl, and of the vertex of a parabola within x5 of itself.
  const bottoms = (logN, bowl) => {
    const last = logN.length - 1, h = logN[1] - logN[0], clip = (x, most) => Math.max(-most, Math.min(most, x));
    const j = Math.max(1, Math.min(last - 1, leastOf(bowl)));
    const bend = bowl[j - 1] - 2 * bowl[j] + bowl[j + 1];
    const lowest = logN[j] + (bend > 0 ? h * clip((0.5 * (bowl[j - 1] - bowl[j + 1])) / bend, 1) : 0);
    let vertex = lowest;
    for (let round = 0; round < 4; round += 1) {
      const m = [0, 0, 0, 0, 0], r = [0, 0, 0];
      for (let i = 0; i <= last; i += 1) {
        const x = logN[i] - vertex;
        let w = Math.min(1, (Math.log(5) - Math.abs(x)) / h + 0.5);
        if (w <= 0) continue;
        for (let k = 0; k < 5; k += 1, w *= x) {
          m[k] += w;
          if (k < 3) r[k] += w * bowl[i];
        }
      }
      const det = (a, b, c) => a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0]);
      const [one, two, three] = [m.slice(0, 3), m.slice(1, 4), m.slice(2, 5)], whole = det(one, two, three);
      const slope = det(one, r, three) / whole, curve = det(one, two, r) / whole;
      if (curve > 1e-12) vertex += clip((-0.5 * slope) / curve, 0.5);
      vertex = Math.max(logN[0], Math.min(logN[last], vertex));
    }
    return [lowest, vertex];
  };

  // The four optima of every drawn surface at one budget, as Python's Evidence.optima.
  const optima = (fit, logC) => {
    const start = optimum(fit.law, fit.flops, logC).logN, widest = Math.log(1e4);
    const dataFor = (logN) => logC - logFlops(fit.flops, logN);
    const bowls = (logN) => {
      const logD = logN.map(dataFor);
      return drawsOf(fit).flatMap(({ part, draws }) => {
        const phi = logN.map((n, i) => basis(part, n, logD[i]));
        return draws.map((draw) => ({
          part, draw,
          whole: logN.map((n, i) => surfaceAt(fit, draw, phi[i], n, logD[i])),
          law: () => logN.map((n, i) => lossAt(draw.law, n, logD[i])),
        }));
      });
    };
    const coarse = even(start - widest, start + widest, 61);
    const near = summary(bowls(coarse).map(({ whole }) => coarse[leastOf(whole)]), 0.96).span;
    const fine = even(Math.max(near[0] - 2, coarse[0]), Math.min(near[1] + 2, coarse[60]), 81);
    return bowls(fine).flatMap(({ part, draw, whole, law }) => {
      const [lowest, vertex] = bottoms(fine, whole), [ofLaw, skewed] = bottoms(fine, law());
      return [lowest, lowest, vertex - (skewed - ofLaw), vertex].map((logN, i) => {
        const logD = dataFor(logN), loss = surfaceAt(fit, draw, basis(part, logN, logD), logN, logD);
        const lost = logN <= coarse[0] + 0.1 || logN >= coarse[60] - 0.1;
        const params = lost ? Infinity : Math.exp(logN), tokens = Math.exp(logD);
        return [params, tokens, loss, lost ? NaN : tokens / params, addTo(fit, loss, draw.run[i])];
      });
    });
  };

  // Where a falling curve first reaches a goal, linear between points: every fifth point is looked
  // at, and then those before. Infinite off both ends.
  const firstCrossing = (xs, at, goal) => {
    let i = 0;
    while (i < xs.length && at(i) > goal) i += 5;
    if (i === 0) return -Infinity;
    for (let k = i - 4; k <= Math.min(i, xs.length - 1); k += 1) {
      const low = at(k);
      if (low > goal) continue;
      const high = at(k - 1);
      return xs[k - 1] + ((high - goal) / (high - low)) * (xs[k] - xs[k - 1]);
    }
    return Infinity;
  };

  // The compute-optimal N, D and loss at C, with intervals; the names are Python's.
  const names = ["optimal_params", "optimal_tokens", "expected_loss", "tokens_per_param", "run_loss"];

  const predict = (fit, compute) => {
    const logC = Math.log(compute);
    const named = (values, spans) => ({
      values: Object.fromEntries(names.map((n, i) => [n, values[i]])),
      spans: Object.fromEntries(names.map((n, i) => [n, spans[i] || null])),
    });
    if (fit.form === "lines") {
      const logN = Math.log(fit.line.k) + fit.line.a * logC;
      const logD = logC - logFlops(fit.flops, logN), line = fit.loss_line;
      const loss = line ? line.k * compute ** line.a + line.offset : NaN;
      return named([Math.exp(logN), Math.exp(logD), loss, Math.exp(logD - logN), loss], []);
    }
    if (fit.form === "table") {
      const read = (name) => {
        const ys = fit.columns[name].map((v) => (v === null ? NaN : v));
        return Math.exp(cubic(logC, fit.log_compute, ys));
      };
      const spans = names.map((n) => [read(`${n}_low`), read(`${n}_high`)]);
      return named(names.map(read), spans.map((s) => (s.some(Number.isNaN) ? null : s)));
    }
    const rows = optima(fit, logC);
    const all = names.map((_, i) => summary(rows.map((row) => row[i]), fit.level));
    const size = Math.log(all[0].middle);
    const logN = Number.isFinite(size) ? size : optimum(fit.law, fit.flops, logC).logN;
    const logD = logC - logFlops(fit.flops, logN), loss = all[2].middle;
    return named([Math.exp(logN), Math.exp(logD), loss, Math.exp(logD - logN), loss], all.map((a) => a.span));
  };

  // The cheapest N and D over training and use for one loss; null where there are no surfaces.
  const forInference = (fit, loss, demand, compute) => {
    if (fit.form !== "draws" || !(demand > 0)) return null;
    const best = withUse(fit.law, fit.flops, loss, demand, Math.log(compute));
    if (!best) return null;
    const keys = ["params", "tokens", "training_compute", "inference_compute", "total_compute"];
    const logN = even(best.logN - 6, best.logN + 6, 81), logD = even(best.logD - 6, best.logD + 6, 49);
    const costs = (n, d) => {
      const logF = logFlops(fit.flops, n);
      return [logF + d, logF + Math.log(demand / 3), addLogs(logF + d, logF + Math.log(demand / 3))];
    };
    const rows = drawsOf(fit).flatMap(({ part, draws }) => {
      const phi = logD.map(() => []);
      return draws.map((draw) => {
        const sizes = [], total = logD.map(() => Infinity);
        const look = (j) => {
          if (j in sizes || j < 0 || j >= logD.length) return;
          const at = (i) => surfaceAt(fit, draw, phi[j][i] ||= basis(part, logN[i], logD[j]), logN[i], logD[j]);
          sizes[j] = firstCrossing(logN, at, loss);
          if (Number.isFinite(sizes[j])) total[j] = costs(sizes[j], logD[j])[2];
        };
        for (let j = 0; j < logD.length; j += 4) look(j);
        const about = leastOf(total);
        for (let j = about - 4; j <= about + 4; j += 1) look(j);
        const j = Math.max(1, Math.min(logD.length - 2, leastOf(total)));
        const [left, here, right] = total.slice(j - 1, j + 2), bend = left - 2 * here + right;
        if (!(here <= left && here <= right && bend > 0 && bend < Infinity)) return keys.map(() => NaN);
        const t = Math.max(-1, Math.min(1, (0.5 * (left - right)) / bend));
        const n = sizes[j] + t * (0.5 * (sizes[j + 1] - sizes[j - 1])
          + t * 0.5 * (sizes[j - 1] - 2 * sizes[j] + sizes[j + 1]));
        const d = logD[j] + t * (logD[1] - logD[0]);
        return [n, d, ...costs(n, d)].map(Math.exp);
      });
    });
    const all = keys.map((_, i) => summary(rows.map((row) => row[i]), fit.level));
    const middles = all.map((a) => a.middle);
    const ofLaw = [best.logN, best.logD, best.training, best.use, addLogs(best.training, best.use)];
    const values = middles.every(Number.isFinite) ? middles : ofLaw.map(Math.exp);
    return {
      values: Object.fromEntries(keys.map((k, i) => [k, values[i]])),
      spans: Object.fromEntries(keys.map((k, i) => [k, all[i].span])),
    };
  };

  // How far a target lies off the runs, as fit.predict says it: null where it does not.
  const offRuns = (fit, compute, best) => {
    const beyond = (value, [low, high], above, below) => (value / high >= low / value
      ? [value / high, above(+(value / high).toPrecision(3))] : [low / value, below(+(low / value).toPrecision(3))]);
    const main = beyond(compute, [fit.smallest, fit.largest],
      (times) => `This is ${times} times the compute of the largest run`,
      (times) => `This is ${times} times below the compute of the smallest run`);
    const sizes = [["N", best.optimal_params, fit.params], [`D, ${fit.unit},`, best.optimal_tokens, fit.tokens]]
      .filter(([, value]) => Number.isFinite(value)).map(([name, value, ends]) => beyond(value, ends,
        (times) => `${name} is ${times} times the largest run's`, (times) => `${name} is ${times} times below the smallest run's`));
    const worse = sizes.filter(([factor]) => factor ** 2 > 2 * Math.max(main[0], 1.001));
    const texts = [...(main[0] > 1.001 ? [main] : []), ...worse].map(([, text]) => text);
    if (!texts.length) return null;
    const worst = Math.max(main[0], ...(worse.length ? sizes.map(([factor]) => factor ** 2) : []));
    return { text: `${texts.join("; ")}.`, grade: worst > 100 ? "critical" : worst > 10 ? "warning" : "note" };
  };

  const powers = "k kilo thousand|m mega mn mio million millions|b g giga bn billion billions|t tera tn trillion trillions|p peta|e exa|z zetta|y yotta";
  const units = Object.fromEntries(powers.split("|").flatMap((names, i) => names.split(" ").map((n) => [n, 1e3 ** (i + 1)])));

  // A number as people write it, NaN where it is none or may mean two: 1,5e20, 3×10²⁰, 1T, 2.000.000.
  const readNumber = (text) => {
    let s = text.trim().toLowerCase().replace(/^[~≈]\s*/, "");
    s = s.replace(/[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+/g, (m) => "^" + [...m].map((c) => "0123456789+-"["⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻".indexOf(c)]).join(""));
    s = s.replace(/(\d)[\s_'’](?=\d{3}(?!\d))/g, "$1");
    if (/^[1-9]\d{0,2}((,\d{3}){2,}(\.\d*)?|,\d{3}\.\d*)$/.test(s)) s = s.replace(/,/g, "");
    else if (/^[1-9]\d{0,2}((\.\d{3}){2,}(,\d*)?|\.\d{3},\d*)$/.test(s)) s = s.replace(/\./g, "").replace(",", ".");
    else if (/^(0,\d+|\d+,(\d{1,2}|\d{4,}))([^\d,].*)?$|^\d+,\d+e[+-]?\d+$/.test(s)) s = s.replace(",", ".");
    const power = /^(?:(\d+\.?\d*|\.\d+)\s*[x×·*]\s*)?10\s*(?:\^|\*\*)\s*([+-]?\d+)$/.exec(s);
    if (power) return Number(`${power[1] || 1}e${power[2]}`);
    const parts = /^([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-z]*?)\s*(?:flops?|tokens?|params|parameters|samples|images)?$/.exec(s);
    if (!parts) return NaN;
    const known = parts[2].length > 1 || "kmbgt".includes(parts[2]) || s.includes("flop");  // 1e is no exa
    return Number(parts[1]) * (parts[2] === "" ? 1 : (known && units[parts[2]]) || NaN);
  };

  return { predict, forInference, logFlops, offRuns, readNumber };
})();
