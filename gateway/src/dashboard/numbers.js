// Sums, shares, quantiles and how they are written. Pure functions: no page in here.

export const GOOD = "usable";
const JUDGED = ["usable", "unusable", "failed", "broken"];
const TRIED = ["usable", "unusable", "error"];

/** Sums per route over the intervals that begin at or after `from`; the key "" holds all routes together. */
export function sums(intervals, from, names) {
  const routes = new Map();
  const all = blank(names);
  for (const interval of intervals) {
    if (interval.t < from) continue;
    for (const [route, counts] of Object.entries(interval.routes)) {
      if (!routes.has(route)) routes.set(route, blank(names));
      add(routes.get(route), counts, names);
      add(all, counts, names);
    }
  }
  return { all, routes };
}

function blank(names) {
  const zero = (list) => Object.fromEntries(list.map((name) => [name, 0]));
  return { ended: zero(names.ended), first: zero(names.first), cost: 0, compared: 0, tokens: 0, requests: 0, total: new Map(), firstByte: new Map() };
}

function add(sum, counts, names) {
  names.ended.forEach((name, at) => { sum.ended[name] += counts.ended[at]; sum.requests += counts.ended[at]; });
  names.first.forEach((name, at) => { sum.first[name] += counts.first[at]; });
  sum.cost += counts.cost;
  sum.compared += counts.compared;
  sum.tokens += counts.tokens;
  for (const [bin, count] of counts.total) sum.total.set(bin, (sum.total.get(bin) ?? 0) + count);
  for (const [bin, count] of counts.first_byte) sum.firstByte.set(bin, (sum.firstByte.get(bin) ?? 0) + count);
}

/** Share of judged requests that got a usable answer in the end; null where none was judged. */
export function usableFinal(sum) {
  return share(sum.ended[GOOD], JUDGED.reduce((whole, name) => whole + sum.ended[name], 0));
}

/** Share of first tries that were usable. */
export function usableFirst(sum) {
  return share(sum.first[GOOD], TRIED.reduce((whole, name) => whole + sum.first[name], 0));
}

export function share(part, whole) {
  return whole > 0 ? part / whole : null;
}

/** Milliseconds below which the share `q` of a histogram lies; null where it is empty. */
export function quantile(histogram, q, bins) {
  const total = [...histogram.values()].reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  let seen = 0;
  for (const bin of [...histogram.keys()].sort((a, b) => a - b)) {
    seen += histogram.get(bin);
    if (seen >= q * total) return bins.first_ms * 2 ** ((bin + 0.5) / bins.per_doubling);
  }
  return null;
}

export function percent(value) {
  if (value === null) return "–";
  const digits = value >= 0.9995 || value < 0.0005 ? 0 : 1;
  return `${(value * 100).toFixed(digits)}%`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 ms";
  if (value < 1) return `${value.toFixed(2)} ms`;
  if (value < 10) return `${value.toFixed(1)} ms`;
  if (value < 1000) return `${Math.round(value)} ms`;
  if (value < 60_000) return `${(value / 1000).toFixed(value < 10_000 ? 2 : 1)} s`;
  return `${Math.floor(value / 60_000)} min ${Math.round((value % 60_000) / 1000)} s`;
}

export function dollars(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = size === 0 || size >= 1 ? 2 : size >= 0.01 ? 3 : size >= 0.0001 ? 5 : 7;
  return `${value < 0 ? "−" : ""}$${size.toFixed(digits)}`;
}

export function count(value) {
  return value >= 100_000 ? `${(value / 1000).toFixed(0)}k` : value.toLocaleString("en-US");
}

export function bytes(value) {
  return value >= 1 << 20 ? `${(value / (1 << 20)).toFixed(1)} MiB` : `${Math.ceil(value / 1024)} KiB`;
}

export function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}
