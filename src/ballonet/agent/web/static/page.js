// The page of `ballonet agent`: rounds as they come, drawn and in words.
// What machines and people say is shown as text, and never as anything else.
"use strict";

const POINTS_MOST = 600;
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const STEPS = Array.from({ length: 40 }, (_, i) => 2 ** i);
const SERIES = [
  ["keeps", "actual_bytes"], ["needs", "need_bytes"], ["target", "target_bytes"],
  ["available", "available_bytes"], ["held", "held_bytes"],
];
const $ = (id) => document.getElementById(id);

function sized(bytes) {
  if (bytes === null || bytes === undefined) return "?";
  let value = Math.abs(bytes), unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) { value /= 1024; unit += 1; }
  const digits = unit && value % 1 ? 1 : 0;
  return `${bytes < 0 ? "−" : ""}${value.toFixed(digits)} ${UNITS[unit]}`;
}

function parsed(text) {
  const found = /^\s*(\d+(?:\.\d+)?)\s*([KMGT])(?:i?B)?\s*$/i.exec(text);
  return found ? Math.round(found[1] * 1024 ** (" KMGT".indexOf(found[2].toUpperCase()))) : null;
}

function made(tag, text, className) {
  const one = document.createElement(tag);
  if (text !== undefined) one.textContent = text;
  if (className) one.className = className;
  return one;
}

function clock(at) {
  const one = made("time", new Date(at * 1000).toLocaleTimeString());
  one.dateTime = new Date(at * 1000).toISOString();
  return one;
}

function lines(list, items, nothing) {
  list.replaceChildren(...(items.length ? items : [made("li", nothing)]));
}

// Charts ------------------------------------------------------------------------------------------

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

class Chart {
  constructor(place, height, label) {
    this.place = place;
    this.height = height;
    this.label = label;
    this.data = [[], ...SERIES.map(() => [])];
    this.draw();
  }

  draw() {
    this.plot?.destroy();
    const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, size: 30 };
    this.plot = new uPlot({
      width: Math.max(200, this.place.clientWidth), height: this.height, legend: { show: false },
      cursor: { show: false },
      scales: { y: { range: (_, least, most) => [0, Math.max(most || 1, this.top || 1)] } },
      axes: [axis, { ...axis, size: 84, incrs: STEPS, values: (_, all) => all.map((v) => sized(v)) }],
      series: [{}, ...SERIES.map(([name]) => ({
        stroke: colour(name), width: name === "keeps" ? 2 : 1.25, points: { show: false },
        dash: name === "target" ? [5, 4] : undefined,
      }))],
    }, this.data, this.place);
    this.plot.ctx.canvas.setAttribute("role", "img");
    this.describe();
  }

  describe() {
    const words = SERIES.map(([name], i) => `${name} ${sized(this.data[i + 1].at(-1))}`).join(", ");
    this.plot.ctx.canvas.setAttribute("aria-label", `${this.label}: ${words}`);
  }

  add(at, values, top) {
    this.top = top;
    this.data[0].push(at);
    SERIES.forEach(([, key], i) => this.data[i + 1].push(values[key] ?? null));
    if (this.data[0].length > POINTS_MOST) this.data.forEach((one) => one.shift());
  }

  show() {
    this.plot.setData(this.data);
    this.describe();
  }

  resize() {
    this.plot.setSize({ width: Math.max(200, this.place.clientWidth), height: this.height });
  }
}

const charts = new Map();

function legend(caption) {
  for (const [name] of SERIES) {
    caption.append(made("span", name === "target" ? "asked for" : name === "held" ? "host holds" : name, `key ${name}`));
  }
}

function chartOf(vm) {
  if (!charts.has(vm)) {
    const figure = made("figure"), caption = made("figcaption"), place = made("div");
    caption.append(made("strong", vm));
    legend(caption);
    figure.append(caption, place);
    $("charts").append(figure);
    charts.set(vm, { figure, chart: new Chart(place, 150, vm) });
  }
  return charts.get(vm).chart;
}

// A round -----------------------------------------------------------------------------------------

let newest = null;
const rows = new Map();

function showHost(state) {
  const host = state.host, pilot = state.autopilot;
  const share = (one) => (one === null ? "?" : `${(100 * one).toFixed(1)} %`);
  const figures = [
    ["memory", sized(host.total_bytes)], ["available", sized(host.available_bytes)],
    ["swap in use", sized(host.swap_used_bytes)], ["waits for memory", share(host.some_share)],
  ];
  if (pilot) {
    figures.push(["for all machines", sized(pilot.budget_bytes)], ["free of it", sized(pilot.free_bytes)],
      ["reserve", sized(pilot.reserve_bytes)]);
    if (pilot.leased_bytes) figures.push(["reserved", sized(pilot.leased_bytes)]);
  }
  $("host").replaceChildren(...figures.map(([name, value]) => {
    const one = made("div");
    one.append(made("dt", name), made("dd", value));
    return one;
  }));
  $("autopilot").textContent = !pilot ? "" : pilot.dry_run
    ? "The autopilot only tries: no machine is asked for anything." : "The autopilot acts.";
  const alarms = [...(pilot ? pilot.alarms : []), ...(state.problem ? [state.problem] : [])];
  $("alarms").hidden = !alarms.length;
  const before = $("alarms").textContent;
  if (before !== alarms.join("")) $("alarms").replaceChildren(...alarms.map((one) => made("li", one)));
}

function rowOf(vm) {
  if (!rows.has(vm)) {
    const row = made("tr"), head = made("th"), name = made("button", vm, "name");
    head.scope = "row";
    name.addEventListener("click", () => openMachine(vm));
    head.append(name);
    row.append(head, ...Array.from({ length: 7 }, (_, i) => made("td", "", i ? "number" : "")));
    rows.set(vm, row);
  }
  return rows.get(vm);
}

function wordsOf(one) {
  if (one.why_not) return one.why_not;
  if (one.problem) return one.problem;
  if (one.paused) return "paused";
  if (one.driver === false) return "no driver";
  return (one.left_alone ? "left to you" : one.state) || "seen";
}

function showMachines(state) {
  const shown = state.vms.map((one) => {
    const row = rowOf(one.vm), cells = row.querySelectorAll("td");
    const values = [wordsOf(one), sized(one.memory_bytes), sized(one.target_bytes), sized(one.actual_bytes),
      sized(one.need_bytes), sized(one.available_bytes), sized(one.held_bytes)];
    values.forEach((value, i) => { if (cells[i].textContent !== value) cells[i].textContent = value; });
    cells[0].classList.toggle("warn", Boolean(one.why_not || one.problem || one.state === "pressure"));
    cells[0].title = one.because;
    return row;
  });
  const table = $("rows");
  if (shown.length !== table.children.length || shown.some((row, i) => table.children[i] !== row)) {
    table.replaceChildren(...shown);
  }
  const names = new Set(state.vms.map((one) => one.vm));
  for (const vm of [...rows.keys()]) if (!names.has(vm)) rows.delete(vm);
  for (const [vm, { figure, chart }] of charts) {
    if (!names.has(vm)) { chart.plot.destroy(); figure.remove(); charts.delete(vm); }
  }
  $("none").hidden = state.vms.length > 0;
}

function decisionLine(one, withName) {
  const item = made("li");
  item.append(clock(one.at_s));
  if (withName) item.append(made("strong", `${one.vm} `));
  item.append(`from ${sized(one.from_bytes)} to ${sized(one.to_bytes)}: ${one.because}`);
  return item;
}

let decided = "";
function showDecisions(state) {
  const key = state.decisions.length ? `${state.decisions[0].at_s}${state.decisions[0].vm}` : "";
  if (key === decided) return;
  decided = key;
  lines($("decisions"), state.decisions.map((one) => decisionLine(one, true)), "none yet");
}

function show(state) {
  newest = state;
  showHost(state);
  showMachines(state);
  for (const one of state.vms) {
    const chart = chartOf(one.vm);
    chart.add(state.at_s, one.why_not ? {} : one, one.memory_bytes);
    if (!document.hidden) chart.show();
  }
  showDecisions(state);
  $("change").hidden = !state.may_act;
  $("connection").textContent = `round ${state.round}, ${new Date(state.at_s * 1000).toLocaleTimeString()}`;
}

// One machine -------------------------------------------------------------------------------------

let open = null;
let hour = null;

async function asked(path) {
  const answer = await fetch(path);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

async function openMachine(vm) {
  const path = `/api/vms/${encodeURIComponent(vm)}`;
  let told, past;
  try {
    [told, past] = await Promise.all([asked(path), asked(`${path}/history?seconds=3600`)]);
  } catch (error) {
    $("connection").textContent = String(error.message);
    return;
  }
  open = vm;
  $("machine-title").textContent = vm;
  $("because").textContent = told.now.because || wordsOf(told.now);
  $("size-form").hidden = !newest?.may_act;
  $("pause").textContent = told.now.left_alone ? "Leave it to the autopilot" : "Leave it to me";
  $("statistics").replaceChildren(...told.statistics.map((one) => {
    const row = made("tr"), name = made("th", one.name);
    name.scope = "row";
    row.append(name, made("td", one.value.toLocaleString(), "number"),
      made("td", one.age_s === null ? "?" : `${one.age_s.toFixed(0)} s`, "number"));
    return row;
  }));
  $("features").textContent = told.features.join(", ") || "not told";
  lines($("own-decisions"), told.decisions.map((one) => decisionLine(one, false)), "none");
  $("machine").showModal();
  $("hour").replaceChildren();
  hour = new Chart($("hour"), 220, `${vm}, the last hour`);
  const columns = ["at", "actual", "target", "available", "held"].map((key) => past.keys.indexOf(key));
  for (const row of past.vms[vm] ?? []) {
    const [at, actual, target, available, held] = columns.map((one) => row[one]);
    hour.add(at, { actual_bytes: actual, target_bytes: target, available_bytes: available, held_bytes: held },
      told.now.memory_bytes);
  }
  hour.show();
}

// Changes -----------------------------------------------------------------------------------------

async function change(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${sessionStorage.token ?? ""}` },
    body: JSON.stringify(body ?? {}),
  });
  const value = await answer.json();
  $("said").textContent = answer.ok ? "Asked." : value.error;
  if (!answer.ok && $("machine").open) $("because").textContent = value.error;
  showRecords();
}

async function showRecords() {
  const { records } = await asked("/api/actions");
  lines($("records"), records.map((one) => {
    const item = made("li");
    item.append(clock(one.at_s), `${one.vm} ${one.what}: ${one.outcome || "under way"} (${one.who})`);
    return item;
  }), "nothing yet");
  if (records.some((one) => !one.outcome)) setTimeout(() => showRecords().catch(() => {}), 1000);
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.token = $("token").value;
  $("token").value = "";
  $("said").textContent = "The token is kept until this tab is closed.";
});
$("reserve-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const bytes = parsed($("reserve").value);
  if (bytes === null) $("said").textContent = "A size is such as 512M or 16G.";
  else change("/api/reserve", { bytes });
});
$("release").addEventListener("click", () => change("/api/reserve", { bytes: 0 }));
$("size-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const bytes = parsed($("size").value);
  if (bytes === null) $("because").textContent = "A size is such as 512M or 2G.";
  else change(`/api/vms/${encodeURIComponent(open)}/size`, { bytes });
});
$("pause").addEventListener("click", async () => {
  const one = newest.vms.find((vm) => vm.vm === open);
  await change(`/api/vms/${encodeURIComponent(open)}/${one?.left_alone ? "resume" : "pause"}`);
  $("pause").textContent = one?.left_alone ? "Leave it to me" : "Leave it to the autopilot";
});
$("close").addEventListener("click", () => $("machine").close());
$("machine").addEventListener("close", () => { hour?.plot.destroy(); hour = null; open = null; });

// Begin -------------------------------------------------------------------------------------------

async function begin() {
  try {
    const past = await asked("/api/history?seconds=600");
    const columns = ["at", "memory", "target", "actual", "available", "held"].map((key) => past.keys.indexOf(key));
    for (const [vm, told] of Object.entries(past.vms)) {
      const chart = chartOf(vm);
      for (const row of told) {
        const [at, memory, target, actual, available, held] = columns.map((one) => row[one]);
        chart.add(at, { target_bytes: target, actual_bytes: actual, available_bytes: available, held_bytes: held }, memory);
      }
    }
  } catch { /* nothing is remembered yet */ }
  const events = new EventSource("/events");
  events.addEventListener("message", (event) => show(JSON.parse(event.data)));
  events.addEventListener("error", () => { $("connection").textContent = "the agent does not answer; trying again …"; });
  showRecords().catch(() => {});
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const { chart } of charts.values()) chart.draw();
  hour?.draw();
});
addEventListener("resize", () => {
  for (const { chart } of charts.values()) chart.resize();
  hour?.resize();
});
begin();
