"use strict";
// Text only ever goes in as text: nothing that a feed sent can become part of the page.
const $ = (id) => document.getElementById(id);
const state = { token: sessionStorage.getItem("token"), about: null, patients: [], chosen: null,
  course: null, after: 0, unit: "", turn: 0, drafts: {} };

function make(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") node.textContent = value;
    else if (name === "click") node.addEventListener("click", value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function draw(tag, options = {}) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") node.textContent = value;
    else node.setAttribute(name, value);
  }
  return node;
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...options.headers,
    Authorization: `Bearer ${state.token}` } });
  if (answer.status === 401 || answer.status === 403) { leave("This token may not read the board."); }
  return answer;
}

function say(text) {
  $("said").textContent = text;
  $("said").hidden = false;
  clearTimeout(state.saying);
  state.saying = setTimeout(() => { $("said").hidden = true; }, 5000);
}

const words = (text) => String(text).replaceAll("_", " ");
// Risks of an hour are small: one digit more where whole percents would tell nothing.
const percent = (risk) => {
  if (risk === null || risk === undefined) return "–";
  const whole = 100 * risk;
  return `${whole.toFixed(whole < 9.95 ? 1 : 0)} %`;
};
const pointsOf = (p) => state.about.points[p.model];
const amount = (p) => {
  const most = pointsOf(p);
  return most && p.risk !== null ? `${Math.round(p.risk * most)} of ${most}` : percent(p.risk);
};
// A site may have thresholds and longest silences of its own, and so may who speaks.
const held = (p) => state.about.sites[p.site] ?? state.about;
const tiersOf = (p) => held(p).tiers_of[p.model] ?? held(p).tiers;
const keyOf = (p) => JSON.stringify([p.site, p.patient]);
const title = (name) => state.about.channels[name] || words(name);
const withheld = (p) => p.risk === null;

function level(p) {
  if (withheld(p)) return "none";
  const tiers = tiersOf(p);
  const reached = tiers.filter((t) => p.risk >= (t.units[p.unit] ?? t.threshold)).length;
  if (!reached) return "calm";
  return reached === tiers.length ? "high" : "warn";
}

function tags(p) {
  const out = [];
  const tag = (text, kind) => out.push(make("span", { class: `tag ${kind}`, text }));
  // Until somebody has seen it, whatever became of the risk: as the header counts it.
  if (p.alarms && !p.acknowledged) tag("▲ alarm, not acknowledged", "high");
  if (["acknowledged", "snoozed", "suppressed"].includes(p.policy)) {
    const until = p.quiet_until ? ` until hour ${p.quiet_until}` : "";
    const why = p.quiet_reason ? `: ${state.about.reasons[p.quiet_reason] ?? words(p.quiet_reason)}` : "";
    tag(`◼ ${p.policy}${until}${why}`, "calm");
  }
  if (withheld(p)) tag(`✕ no score: ${words(p.status)}`, "none");
  else if (p.status !== "ok") tag(`◆ ${words(p.status)}`, "warn");
  if (p.recommended && p.recommended.length) tag(`+ consider ${p.recommended[0].panel}`, "calm");
  return out;
}

function showList() {
  const list = $("patients");
  const units = [...new Set(state.patients.map((p) => p.unit).filter(Boolean))].sort();
  const select = $("unit");
  const wanted = ["", ...units].join("|");
  if (select.dataset.units !== wanted) {
    select.dataset.units = wanted;
    select.replaceChildren(make("option", { value: "", text: "all" }),
      ...units.map((u) => make("option", { value: u, text: u })));
    select.value = state.unit;
  }
  select.parentElement.hidden = units.length < 2;
  const shown = state.patients.filter((p) => !state.unit || p.unit === state.unit);
  const focused = document.activeElement && document.activeElement.dataset.key;
  list.replaceChildren(...shown.map((p) => {
    const key = keyOf(p);
    const row = make("button", { type: "button", class: `row ${level(p)}`, "data-key": key,
      "aria-current": String(key === state.chosen), click: () => choose(key) },
      make("span", { class: "who", text: p.patient }),
      make("span", { class: "risk", text: amount(p) }),
      make("span", { class: "small", text: `${p.site}${p.unit ? " · " + p.unit : ""} · hour ${p.hour}` }),
      make("span", { class: "small", text: p.age === null ? "" : `${p.age} y${p.sex ? " · " + p.sex : ""}` }));
    const found = tags(p);
    if (found.length) row.append(make("span", { class: "tags" }, ...found));
    return make("li", {}, row);
  }));
  if (focused) { for (const row of list.querySelectorAll(".row")) if (row.dataset.key === focused) row.focus(); }
  $("nobody").hidden = shown.length > 0;
  const alarms = shown.filter((p) => p.alarms && !p.acknowledged).length;
  const silent = shown.filter(withheld).length;
  const many = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
  $("counts").textContent =
    `${many(shown.length, "patient")} · ${many(alarms, "open alarm")} · ${silent} without a score`;
}

function chart(course, p, raised) {
  // A telephone gets a narrower drawing, so that its letters can be read.
  const width = window.innerWidth < 700 ? 400 : 720, height = 250, left = 46, right = 12, top = 14, bottom = 34;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Risk over ${course.length} hours` });
  const last = Math.max(p.hour, 2);
  const tiers = tiersOf(p).map((t) => t.units[p.unit] ?? t.threshold);
  const highest = 1.15 * Math.max(0.02, ...tiers, ...course.map((s) => s.risk ?? 0), p.risk ?? 0);
  // Lines at round percents, five steps at most.
  const grid = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2].find((g) => highest / g <= 5) ?? 0.25;
  const most = Math.min(1, grid * Math.ceil(highest / grid));
  const x = (hour) => left + 10 + ((hour - 1) / (last - 1)) * (width - left - 10 - right);
  const y = (risk) => height - bottom - (Math.max(0, risk) / most) * (height - top - bottom);
  for (let value = 0; value <= most + 1e-9; value += grid) {
    svg.append(draw("line", { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end",
      text: pointsOf(p) ? +(value * pointsOf(p)).toFixed(1) : `${(100 * value).toFixed(grid < 0.01 ? 1 : 0)}%` }));
  }
  const step = Math.max(1, Math.ceil(last / (width / 60)));
  for (let hour = 1; hour <= last; hour += step) {
    svg.append(draw("text", { x: x(hour), y: height - 10, "text-anchor": "middle", text: hour }));
  }
  tiersOf(p).forEach((tier, k) => {
    svg.append(draw("line", { class: `level${k < tiers.length - 1 ? " low" : ""}`, x1: left,
      x2: width - right, y1: y(tiers[k]), y2: y(tiers[k]) }));
    svg.append(draw("text", { x: width - right, y: y(tiers[k]) + (k < tiers.length - 1 ? 16 : -5), "text-anchor": "end", text: tier.name }));
  });
  let path = "", pen = false;
  for (const s of course) {
    if (s.risk === null) {
      pen = false;
      const a = x(s.hour), b = height - bottom - 8;
      for (const [dx, dy] of [[5, 5], [5, -5]]) {
        svg.append(draw("line", { class: "gap", x1: a - dx, x2: a + dx, y1: b - dy, y2: b + dy }));
      }
      continue;
    }
    path += `${pen ? "L" : "M"}${x(s.hour).toFixed(1)} ${y(s.risk).toFixed(1)}`;
    pen = true;
    svg.append(draw("circle", { class: "dot", cx: x(s.hour), cy: y(s.risk), r: 3.5 }));
  }
  svg.append(draw("path", { class: "course", d: path }));
  for (const s of course) {
    if (raised.has(s.hour) && s.risk !== null) {
      const a = x(s.hour), b = y(s.risk) - 14;
      svg.append(draw("path", { class: "raised", d: `M${a} ${b - 7}l7 12h-14z` }));
    }
  }
  return svg;
}

function drivers(told) {
  if (!told.length) return make("p", { class: "hint", text: "Nothing stands out." });
  const most = Math.max(...told.map(([, by]) => Math.abs(by)));
  const box = make("div", { class: "drive" });
  for (const [name, by] of told) {
    const bar = make("div", { class: `bar${by > 0 ? " up" : ""}` });
    bar.style.width = `${Math.max(3, (100 * Math.abs(by)) / most)}%`;
    box.append(make("span", { text: title(name) }), bar,
      make("span", { class: "small", text: by > 0 ? "raises" : "lowers" }));
  }
  return box;
}

function showDetail() {
  const box = $("detail");
  const p = state.patients.find((q) => keyOf(q) === state.chosen);
  document.body.classList.toggle("open", Boolean(state.chosen));
  if (!p) {
    box.replaceChildren(make("button", { id: "back", type: "button", text: "← Patients", click: () => choose(null) }),
      make("p", { class: "hint", text: state.chosen ? "The stay is no longer open." : "Choose a patient." }));
    return;
  }
  // What somebody is typing must survive an update.
  const active = document.activeElement && box.contains(document.activeElement) ? document.activeElement.id : null;
  const parts = [make("button", { id: "back", type: "button", text: "← Patients", click: () => choose(null) })];
  parts.push(make("div", { class: "top" }, make("h2", { text: p.patient }),
    make("span", { class: "small", text: `${p.site}${p.unit ? " · " + p.unit : ""} · hour ${p.hour}` }),
    make("span", { class: "risk", text: amount(p) })));
  const row = make("div", { class: "row-tags" }, ...tags(p).flatMap((t) => [t, " "]));
  parts.push(row);
  if (withheld(p)) {
    parts.push(make("div", { class: "box none", id: "why" },
      make("p", {}, make("strong", { text: `No score: ${words(p.status)}` })),
      make("p", { text: p.reason || "Too little is known." }),
      make("p", { class: "small", text: "A missing score is no sign of health." })));
  } else if (p.reason) {
    parts.push(make("div", { class: "box", id: "why" },
      make("p", {}, make("strong", { text: words(p.status) })), make("p", { text: p.reason })));
  }
  if (state.course) {
    const { course, raised } = state.course;
    parts.push(make("h3", { text: `${pointsOf(p) ? "Points of a bedside rule, no probability," : "Risk"} by hour (▲ alarm, ✕ no score given)` }));
    parts.push(course.length ? chart(course, p, raised) : make("p", { class: "hint", text: "The first hour has not ended." }));
  }
  parts.push(make("h3", { text: "What drives it now" }), drivers(p.drivers || []));
  if (p.recommended && p.recommended.length) {
    parts.push(make("h3", { text: "Worth measuring (a proposal, nothing is ordered)" }));
    parts.push(make("div", { class: "box calm", id: "advice" }, ...p.recommended.map((r) =>
      make("p", {}, make("strong", { text: r.panel }), ` ${r.reason}`))));
  }
  if (state.about.may_act) parts.push(make("h3", { text: "Alarms of this stay" }), actions(p));
  const doubts = Object.entries(p.doubts || {}).map(([name, count]) => `, ${count} × ${words(name)}`).join("");
  parts.push(make("p", { class: "small", text: `Model ${p.model || "none"} · ${p.results} results, ${p.late} late${doubts}` }));
  box.replaceChildren(...parts);
  if (active && $(active)) $(active).focus();
}

function actions(p) {
  const draft = state.drafts[state.chosen] || (state.drafts[state.chosen] = { hours: "4", reason: "" });
  const hours = make("select", { id: "hours" });
  for (const h of [1, 2, 4, 6, 8, 12, 24].filter((n) => n <= held(p).longest_silence_hours)) {
    hours.append(make("option", { value: h, text: `${h} h` }));
  }
  hours.value = draft.hours;
  hours.addEventListener("change", () => { draft.hours = hours.value; });
  // Codes only: what people type may name somebody.
  const reason = make("select", { id: "reason" }, make("option", { value: "", text: "choose a reason" }),
    ...Object.entries(state.about.reasons).map(([code, text]) => make("option", { value: code, text })));
  reason.value = draft.reason;
  const button = (id, text, body, main) => make("button", { id, type: "button", text,
    ...(main ? { class: "main" } : {}), click: () => act(p, body()) });
  const silence = (action) => () => ({ action, hours: Number(hours.value), reason: reason.value });
  const suppress = button("suppress", "Suppress", silence("suppress"));
  const snooze = button("snooze", "Snooze", silence("snooze"));
  const check = () => { draft.reason = reason.value; suppress.disabled = snooze.disabled = !reason.value; };
  reason.addEventListener("change", check);
  check();
  const seen = button("acknowledge", "Acknowledge", () => ({ action: "acknowledge" }), true);
  seen.disabled = !p.alarms || p.acknowledged;
  return make("div", {}, make("div", { class: "acts" }, seen,
    button("resume", "Resume alarms", () => ({ action: "resume" }))),
    make("div", { class: "acts" }, make("label", { text: "For" }, hours),
      make("label", { class: "wide", text: "Reason" }, reason), snooze, suppress));
}

function key() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

async function act(p, body) {
  const path = `/v1/patients/${encodeURIComponent(p.site)}/${encodeURIComponent(p.patient)}/actions`;
  let answer;
  try {
    answer = await ask(path, { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...body, stay: p.stay, key: key() }) });
  } catch { say("Not sent: no connection. Try again."); return; }
  if (answer.ok) {
    say(`${body.action}: kept`);
    // Of an action that has no reason nothing was drafted: who began to choose one keeps it.
    if (body.reason) state.drafts[keyOf(p)] = undefined;
    setTimeout(refresh, 150);
    setTimeout(refresh, 900);
  } else {
    const told = await answer.json().catch(() => ({}));
    say(`Not taken: ${typeof told.detail === "string" ? told.detail : answer.status}`);
  }
}

async function choose(chosen) {
  state.chosen = chosen;
  state.course = null;
  showList();
  showDetail();
  await loadCourse();
}

async function loadCourse() {
  const p = state.patients.find((q) => keyOf(q) === state.chosen);
  if (!p) return;
  const chosen = state.chosen;
  const path = `/v1/patients/${encodeURIComponent(p.site)}/${encodeURIComponent(p.patient)}/risk`;
  const answer = await ask(path);
  if (!answer.ok || chosen !== state.chosen) return;
  const told = await answer.json();
  state.course = { course: told.course, raised: new Set(told.alarms || []) };
  showDetail();
}

async function refresh() {
  const turn = ++state.turn;
  try {
    const answer = await ask("/v1/patients");
    if (!answer.ok || turn !== state.turn) return;
    state.patients = (await answer.json()).patients;
    showList();
    if (state.chosen) { showDetail(); await loadCourse(); }
  } catch { connected(false); }
}

function connected(yes) {
  $("link").textContent = yes ? "● live" : "✕ not connected";
  $("link").className = `chip ${yes ? "on" : "off"}`;
}

async function listen() {
  // EventSource cannot send a token in a header, and addresses end up in logs.
  for (let pause = 500; state.token; pause = Math.min(pause * 2, 10000)) {
    try {
      const answer = await ask(`/v1/alarms/stream?after=${state.after}&changes=true`);
      if (!answer.ok) throw new Error("refused");
      connected(true);
      pause = 500;
      refresh();
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let held = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        held += value;
        const blocks = held.split("\n\n");
        held = blocks.pop();
        let news = false;
        for (const block of blocks) {
          for (const line of block.split("\n")) {
            if (line.startsWith("id:")) state.after = Number(line.slice(3));
            if (line.startsWith("event:")) news = true;
          }
        }
        if (news) { clearTimeout(state.soon); state.soon = setTimeout(refresh, 200); }
      }
    } catch { /* tried again below */ }
    connected(false);
    await new Promise((go) => setTimeout(go, pause));
  }
}

async function enter() {
  $("wrong").textContent = "";
  const answer = await fetch("/v1/board", { headers: { Authorization: `Bearer ${state.token}` } }).catch(() => null);
  if (!answer || !answer.ok) {
    leave(answer ? "This token may not read the board." : "The service does not answer.");
    return;
  }
  sessionStorage.setItem("token", state.token);
  state.about = await answer.json();
  $("sign").hidden = true;
  $("board").hidden = false;
  $("leave").hidden = false;
  const notes = await (await ask("/v1/alarms/last")).json();
  state.after = notes.last;
  await refresh();
  listen();
  setInterval(refresh, 15000);
}

function leave(text) {
  state.token = null;
  sessionStorage.removeItem("token");
  $("board").hidden = true;
  $("leave").hidden = true;
  $("sign").hidden = false;
  $("wrong").textContent = text || "";
  connected(false);
}

$("enter").addEventListener("click", () => { state.token = $("token").value.trim(); $("token").value = ""; enter(); });
$("token").addEventListener("keydown", (e) => { if (e.key === "Enter") $("enter").click(); });
$("leave").addEventListener("click", () => { leave(""); location.reload(); });
$("unit").addEventListener("change", () => { state.unit = $("unit").value; showList(); });
if (state.token) enter(); else $("sign").hidden = false;
