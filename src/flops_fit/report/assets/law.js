// The fitted law: what Python's fit.predict(C) and fit.optimal_for_inference compute, from the
// numbers of flops_fit.fit.export_fit. A law is [E, ln A, ln B, alpha, beta, kappa].
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

  // An interval of each of several logs, made as Python makes them.
  const intervals = (evidence, level, quantities) => {
    if (evidence.kind === "draws") return fromDraws(evidence.laws, level, quantities);
    if (evidence.kind !== "sandwich") return null;
    const [first, second] = evidence.parts.map((part) => fromPart(part, quantities));
    if (!second) return first;
    return first.map((span, i) => {
      const other = second[i];
      if (!span || !other) return span;
      return [Math.min(span[0], other[0]), Math.max(span[1], other[1])];
    });
  };

  const fromPart = (part, quantities) => {
    const centre = quantities(part.law);
    const gradient = part.steps.map((step, i) => {
      const [up, down] = [quantities(part.up[i]), quantities(part.down[i])];
      return centre.map((_, q) => (up[q] - down[q]) / (2 * step));
    });
    return centre.map((value, q) => {
      let variance = 0;
      gradient.forEach((a, i) => gradient.forEach((b, j) => {
        variance += a[q] * part.covariance[i][j] * b[q];
      }));
      const half = part.t * Math.sqrt(Math.max(variance, 0));
      return Number.isFinite(value) && half < Math.log(1e6) ? [value - half, value + half] : null;
    });
  };

  const fromDraws = (laws, level, quantities) => {
    const rows = laws.map(quantities);
    return rows[0].map((_, q) => {
      const values = rows.map((row) => row[q]).filter(Number.isFinite).sort((a, b) => a - b);
      if (rows.length - values.length >= (0.5 - level / 2) * rows.length) return null;
      const quantile = (share) => {
        const place = share * (values.length - 1), below = Math.floor(place);
        const above = Math.min(below + 1, values.length - 1);
        return values[below] + (place - below) * (values[above] - values[below]);
      };
      return [quantile(0.5 - level / 2), quantile(0.5 + level / 2)];
    });
  };

  const spansOf = (names, found) => Object.fromEntries(
    names.map((name, i) => [name, found && found[i] ? found[i].map(Math.exp) : null]),
  );

  // The compute-optimal N, D and loss at C, with intervals; the four names are Python's.
  const predict = (fit, compute) => {
    const logC = Math.log(compute);
    const names = ["optimal_params", "optimal_tokens", "expected_loss", "tokens_per_param"];
    if (fit.form === "lines") {
      const logN = Math.log(fit.line.k) + fit.line.a * logC;
      const logD = logC - logFlops(fit.flops, logN), line = fit.loss_line;
      const loss = line ? line.k * compute ** line.a + line.offset : NaN;
      const values = [Math.exp(logN), Math.exp(logD), loss, Math.exp(logD - logN)];
      return { values: Object.fromEntries(names.map((n, i) => [n, values[i]])), spans: {} };
    }
    if (fit.form === "table") {
      const read = (name) => {
        const ys = fit.columns[name].map((v) => (v === null ? NaN : v));
        return Math.exp(cubic(logC, fit.log_compute, ys));
      };
      const spans = names.map((n) => [read(`${n}_low`), read(`${n}_high`)]);
      return {
        values: Object.fromEntries(names.map((n) => [n, read(n)])),
        spans: Object.fromEntries(names.map((n, i) => [n, spans[i].some(Number.isNaN) ? null : spans[i]])),
      };
    }
    const logs = (law) => {
      const best = optimum(law, fit.flops, logC);
      return [best.logN, best.logD, Math.log(best.loss), best.logD - best.logN];
    };
    const values = logs(fit.law).map(Math.exp);
    return {
      values: Object.fromEntries(names.map((n, i) => [n, values[i]])),
      spans: spansOf(names, intervals(fit.evidence, fit.level, logs)),
    };
  };

  // The cheapest N and D over training and use for one loss; null where the law is not at hand.
  const forInference = (fit, loss, demand, compute) => {
    if (fit.form !== "kappa" || !(demand > 0)) return null;
    const names = ["params", "tokens", "training_compute", "inference_compute", "total_compute"];
    const logs = (law) => {
      const best = withUse(law, fit.flops, loss, demand, Math.log(compute));
      if (!best) return names.map(() => NaN);
      const { logN, logD, training, use } = best;
      return [logN, logD, training, use, addLogs(training, use)];
    };
    const values = logs(fit.law).map(Math.exp);
    return {
      values: Object.fromEntries(names.map((n, i) => [n, values[i]])),
      spans: spansOf(names, intervals(fit.evidence, fit.level, logs)),
    };
  };

  return { predict, forInference, logFlops };
})();
