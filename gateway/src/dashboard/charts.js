// Four charts over the shown window. Colours come from the style sheet, so that both themes have their own.

import { milliseconds, dollars, percent, quantile, sums, usableFinal, usableFirst } from "./numbers.js";

const HEIGHT = 180;
const charts = new Map();

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Draws all charts anew for the window. */
export function draw(model, seconds) {
  const step = model.interval_s;
  const end = Math.floor(model.now / step) * step;
  const times = [];
  for (let t = end - seconds + step; t <= end; t += step) times.push(t);
  const byTime = new Map(model.intervals.map((one) => [one.t, one]));
  const at = times.map((t) => sums(byTime.has(t) ? [byTime.get(t)] : [], 0, model));
  // Shares and times of ten seconds jump about; of a minute they can be read.
  const smooth = times.map((t) => sums(model.intervals.filter((one) => one.t > t - 60 && one.t <= t), 0, model).all);
  const routes = [...new Set(model.intervals.flatMap((one) => Object.keys(one.routes)))].sort();

  show("c-traffic", times, routes.map((route, index) => ({
    label: route === "none" ? "no route" : route, stroke: color(`--series-${(index % 6) + 1}`), fill: true, show: (value) => (value ?? 0).toFixed(1),
    values: at.map((one) => (one.routes.get(route)?.requests ?? 0) / step),
  })), { axis: (value) => `${value}`, min: 0 });

  show("c-usable", times, [
    { label: "final", stroke: color("--good"), show: percent, values: smooth.map(usableFinal) },
    { label: "first try", stroke: color("--series-1"), dash: [5, 4], show: percent, values: smooth.map(usableFirst) },
  ], { axis: (value) => (value > 1 ? "" : `${Math.round(value * 100)}%`), share: true });

  const times95 = (name, q) => smooth.map((one) => quantile(one[name], q, model.bins));
  show("c-latency", times, [
    { label: "whole, median", stroke: color("--series-1"), show: milliseconds, values: times95("total", 0.5) },
    { label: "whole, p95", stroke: color("--series-1"), dash: [5, 4], show: milliseconds, values: times95("total", 0.95) },
    { label: "first byte, median", stroke: color("--series-3"), show: milliseconds, values: times95("firstByte", 0.5) },
    { label: "first byte, p95", stroke: color("--series-3"), dash: [5, 4], show: milliseconds, values: times95("firstByte", 0.95) },
  ], { axis: milliseconds, log: true });

  let [spent, compared] = [0, 0];
  const cost = at.map((one) => (spent += one.all.cost));
  const instead = at.map((one) => (compared += one.all.compared));
  show("c-cost", times, [
    { label: "spent", stroke: color("--series-3"), fill: true, show: dollars, values: cost },
    { label: "compared backend", stroke: color("--muted"), dash: [5, 4], show: dollars, values: instead },
  ], { axis: dollars, min: 0 });
}

/** Forgets the drawn charts: after a change of theme they are made anew. */
export function reset() {
  for (const { plot } of charts.values()) plot.destroy();
  charts.clear();
}

function show(id, times, series, options) {
  const data = [times, ...series.map((one) => one.values)];
  const host = document.getElementById(id);
  const key = series.map((one) => one.label).join("|");
  const known = charts.get(id);
  if (known && known.key === key) {
    known.plot.setData(data);
    return;
  }
  known?.plot.destroy();
  charts.set(id, { key, plot: make(host, data, series, options) });
}

function make(host, data, series, { axis, min, share, log }) {
  const [grid, text] = [color("--line"), color("--muted")];
  const font = "11px system-ui, sans-serif";
  const range = (_plot, low, high) => {
    if (low === null || high === null) return log ? [1, 1000] : [0, 1];
    // A first byte and a whole answer are far apart.
    if (log) return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high) + 0.05)];
    // Shares are mostly high: what matters is how far below the whole they are.
    if (share) return [Math.max(0, Math.floor(low * 10 - 0.5) / 10), 1.02];
    return [min ?? low, high > 0 ? high * 1.15 : 1];
  };
  return new uPlot({
    width: Math.max(200, host.clientWidth), height: HEIGHT,
    cursor: { y: false, points: { size: 6 } },
    legend: { live: true, markers: { width: 0, fill: (_plot, index) => swatch(series[index - 1]) } },
    scales: { x: { time: true }, y: log ? { range, distr: 3 } : { range } },
    axes: [
      { stroke: text, font, grid: { show: false }, ticks: { stroke: grid, size: 4 }, size: 30, space: 70, values: (_plot, splits) => splits.map(clock) },
      { stroke: text, font, size: 62, grid: { stroke: grid, width: 1, ...(log && { filter: decades }) }, ticks: { show: false }, values: (_plot, splits) => splits.map((value) => (value === null ? "" : axis(value))) },
    ],
    series: [
      { value: (_plot, value) => (value === null ? "" : new Date(value * 1000).toLocaleTimeString()) },
      ...series.map((one) => ({
        label: one.label, stroke: one.stroke, width: 2, dash: one.dash, spanGaps: false, points: { show: false },
        fill: one.fill ? `${one.stroke}22` : undefined, value: (_plot, value) => (value === null || value === undefined ? "" : one.show(value)),
      })),
    ],
  }, data, host);
}

/** Of a logarithmic scale's lines those that have a number. */
function decades(_plot, splits) {
  return splits.map((value) => (Number.isInteger(Math.round(Math.log10(value) * 1e6) / 1e6) ? value : null));
}

/** A legend's mark: dashed lines are told apart from whole ones of the same colour. */
function swatch(one) {
  if (!one?.dash) return one?.stroke;
  return `repeating-linear-gradient(90deg, ${one.stroke} 0 4px, transparent 4px 6px)`;
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

addEventListener("resize", () => {
  for (const [id, { plot }] of charts) plot.setSize({ width: Math.max(200, document.getElementById(id).clientWidth), height: HEIGHT });
});
