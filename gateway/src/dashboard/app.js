// The page: asks once a second for what is new, keeps an hour, draws. The feed's rows are <details>: keyboard and screen readers know them.

import { draw, reset } from "./charts.js";
import { bytes, count, dollars, duration, milliseconds, percent, quantile, sums, usableFinal, usableFirst } from "./numbers.js";

const $ = (id) => document.getElementById(id);
const ROWS = 200;
const ASK_MS = 1000;
/** What is known; `intervals` and `decisions` grow with each answer. */
const model = { intervals: [], decisions: [], next: 0, started: 0 };
const view = { seconds: 900, filter: "all", paused: false, token: sessionStorage.getItem("spectra-token"), failures: 0 };

// === asking ===

async function ask() {
  const newest = model.intervals.at(-1)?.t ?? 0;
  const headers = view.token ? { Authorization: `Bearer ${view.token}` } : {};
  const response = await fetch(`/dashboard/live?decision=${model.next}&interval=${newest}`, { headers, cache: "no-store" });
  if (response.status === 401) return wantToken();
  if (!response.ok) throw new Error(`the gateway answered ${response.status}`);
  take(await response.json());
}

function take(told) {
  if (told.started !== model.started) {
    // Another process: what it does not remember is over.
    Object.assign(model, { intervals: [], decisions: [] });
    $("feed").replaceChildren($("feed-empty") ?? "");
  }
  const kept = model.intervals.filter((one) => one.t < (told.intervals[0]?.t ?? Infinity) && one.t > told.now - 3700);
  const decisions = [...told.decisions].reverse();
  Object.assign(model, told, { intervals: [...kept, ...told.intervals], decisions: [...decisions, ...model.decisions].slice(0, told.remembers) });
  render(decisions);
}

async function tick() {
  try {
    if (!document.hidden && !$("token-dialog").open) await ask();
    view.failures = 0;
  } catch (error) {
    view.failures += 1;
    state("down", `no answer from the gateway (${error.message})`);
  }
  setTimeout(tick, Math.min(ASK_MS * (1 + view.failures), 10_000));
}

function wantToken() {
  state("down", "waiting for the admin token");
  if (!$("token-dialog").open) $("token-dialog").showModal();
}

// === drawing ===

function render(fresh) {
  const windowed = sums(model.intervals, model.now - view.seconds, model);
  state("live", `live · up ${duration(model.now - model.started)}`);
  routes(windowed.routes);
  figures(windowed.all);
  models();
  if (!view.paused) feed(fresh);
  notices();
  draw(model, view.seconds);
  const ledger = model.ledger ? `ledger ${count(model.ledger.rows)} rows written, ${bytes(model.ledger.bytes)}${model.ledger.dropped ? `, ${count(model.ledger.dropped)} dropped` : ""}` : "no ledger";
  setText($("footer"), `spectra ${model.version} · config ${model.config_hash} · ${ledger} · ${model.keeps_text ? "prompts and answers are kept" : "prompts and answers are not kept"}`);
}

function state(kind, text) {
  $("state").dataset.kind = kind;
  setText($("state-text"), text);
}

function routes(byRoute) {
  const shown = [...byRoute].filter(([, sum]) => sum.requests > 0).sort(([a], [b]) => (a === "none") - (b === "none") || a.localeCompare(b));
  if (shown.length === 0) {
    if (model.intervals.length > 0) $("routes").replaceChildren(make("p", "empty", "No requests in this time."));
    return;
  }
  sync($("routes"), shown, ([route]) => route, routeCard, ([route, sum], card) => {
    const [last, first] = [usableFinal(sum), usableFirst(sum)];
    const big = card.querySelector(".big");
    setText(big, route === "none" ? count(sum.requests) : percent(last));
    big.dataset.level = last === null ? "none" : last >= 0.97 ? "good" : last >= 0.9 ? "fair" : "poor";
    setText(card.querySelector(".first"), percent(first));
    const uplift = last === null || first === null ? null : (last - first) * 100;
    setText(card.querySelector(".uplift"), uplift === null || route === "none" || Math.abs(uplift) < 0.05 ? "" : `${uplift < 0 ? "−" : "+"}${Math.abs(uplift).toFixed(1)} points by repair and escalation`);
    setText(card.querySelector(".many"), route === "none" ? "asked a model directly, or refused" : `${count(sum.requests)} request${sum.requests === 1 ? "" : "s"}`);
    card.querySelector(".share .a").style.width = `${100 * Math.min(first ?? 0, last ?? 0)}%`;
    card.querySelector(".share .b").style.width = `${100 * Math.max(0, (last ?? 0) - (first ?? 0))}%`;
    card.querySelector(".share").hidden = last === null;
    card.querySelector(".tries").hidden = first === null;
    setText(card.querySelector(".ends"), endings(sum));
  });
}

function routeCard([route]) {
  const card = make("article", "card route");
  card.dataset.route = route;
  card.append(make("h3", "", route === "none" ? "no route" : route), make("p", "big"), make("p", "label", route === "none" ? "requests" : "usable in the end"));
  const share = make("div", "share");
  share.append(make("span", "a"), make("span", "b"));
  const tries = make("p", "tries");
  tries.append(make("b", "first"), " at the first try ", make("span", "uplift"));
  card.append(share, tries, make("p", "many"), make("p", "ends"));
  return card;
}

function endings(sum) {
  return Object.entries(sum.ended).filter(([name, many]) => many > 0 && name !== "usable").map(([name, many]) => `${count(many)} ${name}`).join(" · ");
}

function figures(sum) {
  const seconds = Math.max(1, Math.min(view.seconds, model.now - model.started));
  const hours = seconds / 3600;
  const machine = model.usd_per_hour * hours;
  const saved = sum.compared - sum.cost - machine;
  const set = (id, text) => setText($(id), text);
  set("f-requests", count(sum.requests));
  set("f-rate", `${(sum.requests / seconds).toFixed(2)} per second`);
  set("f-flight", count(model.in_flight));
  set("f-escalated", `${count(sum.tokens)} tokens written`);
  set("f-total", milliseconds(quantile(sum.total, 0.5, model.bins)));
  set("f-total95", `95th percentile ${milliseconds(quantile(sum.total, 0.95, model.bins))}`);
  set("f-first", milliseconds(quantile(sum.firstByte, 0.5, model.bins)));
  set("f-first95", `95th percentile ${milliseconds(quantile(sum.firstByte, 0.95, model.bins))}`);
  set("f-cost", dollars(sum.cost));
  set("f-compared", `${dollars(sum.compared)} on the compared backend`);
  set("f-saved", dollars(saved));
  $("f-saved").dataset.level = saved < 0 ? "poor" : "good";
  set("f-machine", machine > 0 ? `after ${dollars(machine)} for this machine` : "machine counted as free");
}

function models() {
  sync($("models"), model.models, (one) => one.name, (one) => {
    const card = make("article", "card model");
    const head = make("div", "bar");
    head.append(make("h3", "", one.name), make("span", "pill"));
    card.append(head, make("p", "where"), make("dl", "levels"));
    return card;
  }, (one, card) => {
    const pill = card.querySelector(".pill");
    const down = one.engine && !one.engine.up;
    pill.dataset.level = down || one.breaker === "open" ? "poor" : one.breaker === "probing" ? "fair" : "good";
    setText(pill, down ? "not loaded" : one.breaker === "closed" ? "healthy" : `breaker ${one.breaker}`);
    setText(card.querySelector(".where"), one.local ? "on this machine" : "hosted");
    const engine = one.engine;
    const levels = engine ? [["slots", `${engine.busy} of ${engine.slots}`, engine.busy / Math.max(1, engine.slots)], ["KV cache", percent(engine.kv_used), engine.kv_used], ["waiting", count(engine.queue)], ["restarts", count(engine.restarts)]] : [];
    sync(card.querySelector(".levels"), levels, ([name]) => name, ([name]) => {
      const row = make("div");
      row.append(make("dt", "", name), make("dd"), make("meter"));
      return row;
    }, ([, text, part], row) => {
      setText(row.querySelector("dd"), text);
      row.querySelector("meter").hidden = part === undefined;
      row.querySelector("meter").value = part ?? 0;
    });
  });
}

function notices() {
  $("notices").hidden = model.notices.length === 0;
  sync($("notices"), model.notices, (text) => text, (text) => make("li", "", text), () => {});
}

// === decisions ===

function matches(one) {
  if (view.filter === "escalated") return one.attempts.length > 1;
  if (view.filter === "trouble") return !["usable", "unjudged"].includes(one.ended);
  return true;
}

function feed(fresh) {
  const rows = fresh.filter(matches).slice(0, ROWS).map(row);
  if (rows.length > 0) $("feed").prepend(...rows);
  const shown = $("feed").querySelectorAll("details");
  for (const old of [...shown].slice(ROWS)) if (!old.open && !old.contains(document.activeElement)) old.remove();
  if (shown.length > 0) $("feed-empty")?.remove();
}

function refill() {
  $("feed").replaceChildren(...model.decisions.filter(matches).slice(0, ROWS).map(row));
  if ($("feed").childElementCount === 0) $("feed").append(Object.assign(make("p", "empty", "None of this kind."), { id: "feed-empty" }));
}

function row(one) {
  const details = make("details", "decision");
  details.dataset.id = one.id;
  const summary = make("summary");
  const ended = make("span", "ended", one.ended === "usable" && one.verified === "repaired" ? "repaired" : one.ended);
  ended.dataset.level = { usable: "good", unjudged: "none", cancelled: "none", rejected: "fair" }[one.ended] ?? "poor";
  const models = one.attempts.map((attempt) => attempt.model).filter((name, at, all) => name !== all[at - 1]);
  summary.append(
    make("time", "", new Date(one.at * 1000).toLocaleTimeString()), ended,
    make("span", "way", [one.route, models.join(" → ")].filter(Boolean).join(": ") || one.code || "refused"),
    difficulty(one.score), make("span", "tries", `${one.attempts.length}×`), make("span", "took", milliseconds(one.ms.total)), make("span", "cost", dollars(one.cost_usd)),
  );
  details.append(summary);
  // Most rows are never opened: their inside is made when they are.
  details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(inside(one)); });
  return details;
}

function difficulty(score) {
  const box = make("span", "difficulty");
  if (score === null) return box;
  const bar = make("span", "gauge");
  bar.append(make("i"));
  bar.firstChild.style.width = `${score * 100}%`;
  box.append(bar, score.toFixed(2));
  return box;
}

function inside(one) {
  const box = make("div", "inside");
  box.append(score(one), attempts(one), facts(one));
  if (one.prompt !== undefined) box.append(text("Prompt", one.prompt), text("Answer", one.answer));
  return box;
}

function score(one) {
  const part = make("section", "why");
  part.append(make("h4", "", "Why this route"));
  const chance = one.predicted === null ? "" : ` Chance of a usable first answer: ${percent(one.predicted)}.`;
  part.append(make("p", "", one.score === null ? `No score was needed: ${one.reason || "refused before it"}.` : `Difficulty ${one.score.toFixed(2)}, mostly by ${one.reason.replaceAll("_", " ")}.${chance}`));
  const strongest = Math.max(0.001, ...one.reasons.map(([, weight]) => Math.abs(weight)));
  const list = make("ul", "reasons");
  for (const [name, weight] of one.reasons) {
    const item = make("li");
    const bar = make("span", weight < 0 ? "weight easier" : "weight harder");
    bar.append(make("i"));
    bar.firstChild.style.width = `${(50 * Math.abs(weight)) / strongest}%`;
    item.append(make("span", "", name.replaceAll("_", " ")), bar, make("span", "number", `${weight < 0 ? "−" : "+"}${Math.abs(weight).toFixed(2)}`));
    list.append(item);
  }
  if (one.reasons.length > 0) part.append(list, make("p", "key", "left: easier, right: harder"));
  return part;
}

function attempts(one) {
  const part = make("section", "attempts");
  part.append(make("h4", "", one.attempts.length === 0 ? "No model was asked" : "Attempts"));
  const whole = Math.max(0.001, one.ms.total, ...one.attempts.map((attempt) => attempt.started_ms + attempt.ms));
  const list = make("ol");
  for (const attempt of one.attempts) {
    const item = make("li");
    const verdict = make("span", "pill", attempt.verdict.replaceAll("_", " "));
    verdict.dataset.level = { pass: "good", mended: "good", cancelled: "none" }[attempt.kind] ?? "poor";
    const head = make("p");
    head.append(make("b", "", attempt.model), ` ${attempt.why.replaceAll("_", " ")} `, verdict);
    const line = make("span", "line");
    line.append(make("i"));
    line.firstChild.style.marginLeft = `${(100 * attempt.started_ms) / whole}%`;
    line.firstChild.style.width = `${Math.max(0.8, (100 * attempt.ms) / whole)}%`;
    line.dataset.level = verdict.dataset.level;
    const said = [milliseconds(attempt.ms), attempt.first_chunk_ms === null ? null : `first chunk after ${milliseconds(attempt.first_chunk_ms)}`,
      attempt.usage ? `${count(attempt.usage[0])} + ${count(attempt.usage[1])} tokens` : "tokens not counted", dollars(attempt.cost_usd),
      attempt.repairs.length > 0 ? `repaired: ${attempt.repairs.join(", ").replaceAll("_", " ")}` : null];
    item.append(head, line, make("p", "sub", said.filter(Boolean).join(" · ")));
    list.append(item);
  }
  if (one.attempts.length > 0) part.append(list);
  return part;
}

function facts(one) {
  const list = make("dl", "facts");
  const rows = [
    ["request id", one.id], ["asked for", `${one.asked || "–"}${one.streamed ? ", streamed" : ""}`], ["status", `${one.status}${one.code ? ` ${one.code}` : ""}`], ["verified", one.verified],
    ["first byte", milliseconds(one.ms.first_byte)], ["whole", milliseconds(one.ms.total)],
    ["the gateway's own", `parse ${milliseconds(one.ms.parse)}, plan ${milliseconds(one.ms.plan)}, verify ${milliseconds(one.ms.verify)}`],
    ["compared backend", dollars(one.compared_usd)], ["caller's word", one.feedback === null ? null : one.feedback ? "usable" : "not usable"],
  ];
  for (const [name, value] of rows) if (value !== null) list.append(make("dt", "", name), make("dd", "", value));
  return list;
}

function text(title, body) {
  const part = make("section", "text");
  part.append(make("h4", "", title), make("pre", "", body));
  return part;
}

// === small tools ===

function make(tag, className = "", content = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (content) element.textContent = content;
  return element;
}

function setText(element, content) {
  if (element.textContent !== content) element.textContent = content;
}

/** Makes, updates and removes children so that they follow the items; what stays keeps its focus. */
function sync(host, items, key, create, update) {
  const old = new Map([...host.children].filter((child) => child.dataset.key !== undefined).map((child) => [child.dataset.key, child]));
  const now = items.map((item) => {
    const child = old.get(key(item)) ?? create(item);
    child.dataset.key = key(item);
    update(item, child);
    return child;
  });
  if (now.length !== host.children.length || now.some((child, at) => host.children[at] !== child)) host.replaceChildren(...now);
}

// === what the user does ===

const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  localStorage.setItem("spectra-theme", theme);
  document.documentElement.dataset.theme = theme;
  setText($("theme"), `Theme: ${theme}`);
  reset();
  if (model.now) draw(model, view.seconds);
}

function nextTheme() {
  setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
}

function setWindow(seconds) {
  view.seconds = seconds;
  document.querySelector(`input[name=window][value="${seconds}"]`).checked = true;
  if (model.now) render([]);
}

function pause() {
  view.paused = !view.paused;
  $("pause").setAttribute("aria-pressed", String(view.paused));
  setText($("pause"), view.paused ? "Resume" : "Pause");
  if (!view.paused) refill();
}

function move(by) {
  const rows = [...$("feed").querySelectorAll("summary")];
  if (rows.length === 0) return;
  const at = rows.indexOf(document.activeElement);
  rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + by))].focus();
}

const KEYS = { j: () => move(1), k: () => move(-1), p: pause, t: nextTheme, 1: () => setWindow(300), 2: () => setWindow(900), 3: () => setWindow(3600) };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|TEXTAREA/.test(event.target.tagName) && event.target.type !== "radio") return;
  const act = KEYS[event.key];
  if (act) { act(); event.preventDefault(); }
});
$("theme").addEventListener("click", nextTheme);
$("pause").addEventListener("click", pause);
$("window").addEventListener("change", (event) => setWindow(Number(event.target.value)));
$("filter").addEventListener("change", (event) => { view.filter = event.target.value; refill(); });
$("token-form").addEventListener("submit", () => {
  view.token = $("token").value;
  sessionStorage.setItem("spectra-token", view.token);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(document.documentElement.dataset.theme));
setTheme(localStorage.getItem("spectra-theme") ?? "auto");
tick();
