"use strict";
// Everything shown comes from records, which environments and models wrote: it is only ever set as
// text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const agents = data.agents;
const list = document.querySelector("ol.episodes");
const pane = document.querySelector(".episode");
const search = document.getElementById("search");
const type = document.getElementById("type");
const count = document.getElementById("count");
let filter = "all";
let shown = [];
let current = 0;

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// A row's place in the address: its numbers stand last, so that no two rows share one.
const rows = data.rows.map((row) => ({
  key: row.task + "/" + row.seed + "/" + row.attempt,
  name: row.task + (row.seed ? " · seed " + row.seed : "") + (row.attempt ? " · attempt " + row.attempt : ""),
  episodes: row.episodes,
}));

// What a search looks through, put together when the first one asks.
function text(row) {
  if (row.text === undefined) {
    const parts = [row.name];
    for (const e of row.episodes) {
      if (!e) continue;
      parts.push(e.instruction, e.final || "", e.error || "");
      for (const step of e.steps) parts.push(step.o, step.r, step.a || "", step.x || "");
    }
    row.text = parts.join("\n").toLowerCase();
  }
  return row.text;
}

function verdict(e) {
  if (!e) return "absent";
  if (e.outcome === "error" || e.outcome === "untold") return e.outcome;
  return e.success ? "won" : "lost";
}

function fits(row) {
  const e = row.episodes.find(Boolean);
  if (type.value && e.type !== type.value) return false;
  if (search.value && !text(row).includes(search.value.toLowerCase())) return false;
  const some = (test) => row.episodes.some((x) => x && test(x));
  if (filter === "failed") return some((x) => verdict(x) === "lost");
  if (filter === "invalid") return some((x) => x.invalid > 0);
  if (filter === "errors") return some((x) => x.outcome === "error");
  if (filter === "differ") return new Set(row.episodes.map(verdict)).size > 1;
  return true;
}

function refresh(keep) {
  const before = keep && shown[current];
  shown = rows.filter(fits);
  current = Math.max(0, before ? shown.indexOf(before) : 0);
  list.replaceChildren(...shown.map((row, i) => {
    const item = make("li");
    const button = make("button");
    row.episodes.forEach((e) => {
      const v = verdict(e);
      button.append(make("span", "tag " + v, v + (e ? " " + e.steps.length : "")), " ");
    });
    button.append(make("span", "", row.episodes.find(Boolean).instruction));
    button.append(make("div", "quiet small", row.name));
    button.addEventListener("click", () => { current = i; select(); });
    item.append(button);
    return item;
  }));
  count.textContent = shown.length + " of " + rows.length;
  select();
}

function partsAt(row) {
  const [a, b] = row.episodes;
  if (!a || !b) return -1;
  const n = Math.min(a.steps.length, b.steps.length);
  for (let i = 0; i < n; i++) if (a.steps[i].a !== b.steps[i].a) return i;
  return a.steps.length === b.steps.length ? -1 : n;
}

function stepNode(step, number, parts) {
  const node = make("article", parts ? "step parts" : "step");
  node.append(make("div", "observation", step.o));
  if (step.r) node.append(make("div", "reasoning", step.r));
  node.append(make("div", "action", step.a === null ? "(no action)" : step.a));
  const facts = ["step " + number];
  if (step.x) facts.push("executed as: " + step.x);
  if (step.bad) facts.push("invalid");
  if (step.slip) facts.push(step.forced ? "the protocol's action" : "slip put in on purpose");
  if (step.reward) facts.push("reward " + step.reward);
  if (step.t) {
    const [prompt, reasoning, action] = step.t.map((n) => n === null ? "-" : n);
    facts.push(prompt + " prompt, " + reasoning + " reasoning, " + action + " action tokens");
  }
  if (step.s[0] >= 0.001) facts.push(step.s[0].toFixed(3) + " s model");
  if (step.s[1] >= 0.001) facts.push(step.s[1].toFixed(3) + " s environment");
  node.append(make("div", "facts", facts.join(" · ")));
  return node;
}

function select() {
  [...list.querySelectorAll("button")].forEach((b, i) => {
    b.setAttribute("aria-current", i === current ? "true" : "false");
    if (i === current) b.scrollIntoView({block: "nearest"});
  });
  const row = shown[current];
  if (!row) { pane.replaceChildren(make("p", "quiet", "No episode fits.")); return; }
  location.replace("#" + encodeURIComponent(row.key));
  const parts = partsAt(row);
  const first = row.episodes.find(Boolean);
  const head = [make("h2", "", row.name), make("p", "", first.instruction)];
  if (row.episodes.length > 1)
    head.push(make("div", "note", !row.episodes.every(Boolean) ? "Only one of them has a record of this task."
      : parts < 0 ? "The same actions throughout." : "They part at step " + (parts + 1) + " (framed)."));
  const columns = make("div", "columns");
  row.episodes.forEach((e, i) => {
    const column = make("section");
    column.append(make("h2", "", agents[i]));
    if (!e) { column.append(make("p", "quiet", "No record of this task.")); columns.append(column); return; }
    const line = make("p", "small");
    line.append(make("span", "tag " + verdict(e), verdict(e)),
      " " + e.outcome + " after " + e.steps.length + " steps, " + (e.score === null ? "" : "score " + e.score + ", ") + e.seconds.toFixed(2) + " s");
    column.append(line);
    if (e.error) column.append(make("div", "note", e.error));
    e.steps.forEach((step, k) => column.append(stepNode(step, k + 1, k === parts)));
    if (e.final !== null) {
      const last = make("article", "step");
      last.append(make("div", "observation", e.final), make("div", "facts", "after the last step"));
      column.append(last);
    }
    columns.append(column);
  });
  pane.replaceChildren(...head, columns);
}

document.querySelectorAll("[data-filter]").forEach((button) => {
  button.addEventListener("click", () => {
    filter = button.dataset.filter;
    document.querySelectorAll("[data-filter]").forEach((b) =>
      b.setAttribute("aria-pressed", b === button ? "true" : "false"));
    refresh(true);
  });
});
[...new Set(rows.map((r) => r.episodes.find(Boolean).type))].sort().forEach((name) => {
  if (name) { const o = make("option", "", name); o.value = name; type.append(o); }
});
search.addEventListener("input", () => refresh(true));
type.addEventListener("change", () => refresh(true));
document.addEventListener("keydown", (event) => {
  if (event.target === search) { if (event.key === "Escape") search.blur(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target === type) return;
  const listed = event.target.closest && event.target.closest("ol.episodes");
  const next = ["j", "ArrowRight"].includes(event.key) || (listed && event.key === "ArrowDown");
  const previous = ["k", "ArrowLeft"].includes(event.key) || (listed && event.key === "ArrowUp");
  if (next || previous) {
    current = Math.min(Math.max(current + (next ? 1 : -1), 0), Math.max(shown.length - 1, 0));
    select();
    if (listed) { list.querySelectorAll("button")[current].focus(); event.preventDefault(); }
  } else if (event.key === "/") { search.focus(); event.preventDefault(); }
});
function asked() {
  try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; }
}
const wanted = asked();
refresh(false);
const start = shown.findIndex((row) => row.key === wanted || row.name === wanted);
if (start > 0) { current = start; select(); }
