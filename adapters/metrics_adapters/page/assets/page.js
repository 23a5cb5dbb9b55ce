/**
 * The live page: tabs, time range, tag filter, pause and theme, and the state of the service and the connection.
 *
 * The tab, the range and the filter are in the hash of the URL, so that a link shows the same.
 */

import { ChartLibrary } from "./charts.js";
import { Connection } from "./connection.js";
import { element, foreign, printable, setText } from "./elements.js";
import { age, clock, counted, exact, measurement } from "./format.js";
import { HistoryView } from "./history.js";
import { PanelGrid } from "./panels.js";

const TABS = ["overview", "performance", "errors", "resources", "batch", "history"];
const RANGES = [60, 300, 900, 3600, 21600, 86400];
const DEFAULT_RANGE = 900;
const THEME_KEY = "metrics-framework.theme";

const find = (id) => document.getElementById(id);

const view = readHash();
let isPaused = false;
let last = null; // the last event of the stream

const library = new ChartLibrary(() => {
  showLibrary();
  if (last !== null) draw();
});
const grid = new PanelGrid(find("tiles"), find("cards"), library);
const history = new HistoryView(find("history"), (chosen) => {
  Object.assign(view, chosen);
  writeHash();
});
const connection = new Connection(receive, showConnection);

// -- the view, which the hash keeps ------------------------------------------------------------------------

function readHash() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const seconds = Number(fields.get("range"));
  return {
    tab: TABS.includes(fields.get("tab")) ? fields.get("tab") : TABS[0],
    seconds: RANGES.includes(seconds) ? seconds : DEFAULT_RANGE,
    tags: fields.getAll("tag").filter((tag) => tag.indexOf(":") > 0).reduce(withTag, []),
    baseline: fields.get("baseline"),
    current: fields.get("current"),
  };
}

/** Return a filter with one more tag. It replaces a tag with the same key: nothing has two values of one key. */
function withTag(tags, tag) {
  const key = tag.slice(0, tag.indexOf(":") + 1);
  return [...tags.filter((one) => !one.startsWith(key)), tag];
}

function writeHash() {
  const fields = new URLSearchParams({ tab: view.tab, range: view.seconds });
  for (const tag of view.tags) fields.append("tag", tag);
  if (view.tab === "history" && view.baseline) fields.append("baseline", view.baseline);
  if (view.tab === "history" && view.current) fields.append("current", view.current);
  if (location.hash.slice(1) !== fields.toString()) window.history.replaceState(null, "", `#${fields}`);
}

/** Show the view, and read its stream from the start. */
function openView() {
  writeHash();
  showTabs();
  showFilter();
  const isHistory = view.tab === "history";
  find("history").hidden = !isHistory;
  find("dashboard").hidden = isHistory;
  grid.clear();
  last = null;
  if (isHistory) history.open(view);
  if (isPaused) return;
  setText(find("waiting"), "Waiting for data…");
  find("waiting").hidden = false;
  const fields = new URLSearchParams({ dashboard: isHistory ? TABS[0] : view.tab, window: view.seconds });
  for (const tag of view.tags) fields.append("tag", tag);
  connection.open(`stream?${fields}`);
}

addEventListener("hashchange", () => {
  Object.assign(view, readHash());
  openView();
});

// -- events ------------------------------------------------------------------------------------------------

function receive(event) {
  last = event;
  showService(event);
  showKnownTags(event.dashboard?.known_tags);
  const hasHistory = event.history === true;
  if (find("tab-history").hidden === hasHistory) find("tab-history").hidden = !hasHistory;
  draw();
}

function draw() {
  find("waiting").hidden = true;
  showRange(last.dashboard?.window_seconds);
  // Frames stop in a hidden window, so nothing is drawn there.
  requestAnimationFrame(() => {
    if (view.tab !== "history" && last?.dashboard && last.dashboard.type === view.tab) grid.show(last.dashboard);
  });
}

function showRange(seconds) {
  const isShort = typeof seconds === "number" && seconds < view.seconds;
  setText(find("range-note"), isShort ? `The system keeps ${age(seconds)}.` : "");
}

// -- the service -------------------------------------------------------------------------------------------

function showService({ health = {}, service = {}, clients = {} }) {
  const tags = Object.entries(service.tags ?? {});
  const named = tags.find(([key]) => key === "service") ?? tags.find(([key]) => key === "service.name");
  const name = named ? printable(named[1], 60) : "Metrics";
  const shape = JSON.stringify(tags);
  if (find("service-tags").dataset.shape !== shape) {
    find("service-tags").dataset.shape = shape;
    find("service").replaceChildren(named ? foreign(named[1]) : "Metrics");
    find("service-tags").replaceChildren(
      ...tags.filter((tag) => tag !== named).map(([key, value]) => element("li", { class: "tag" }, foreign(`${key}:${value}`))),
    );
  }
  const isHealthy = health.healthy === true;
  const state = health.healthy === undefined ? "unknown" : isHealthy ? "ok" : "critical";
  find("health").dataset.state = state;
  setText(find("health"), { ok: "✓ Healthy", critical: "▲ Unhealthy", unknown: "? Health unknown" }[state]);
  document.title = `${state === "critical" ? "▲ " : ""}${name} · ${view.tab}`;
  showFacts(health, service, clients);
}

/** Show the number of records, and of those that were lost. Zeros are shown too. */
function showFacts(health, service, clients) {
  const facts = [
    ["Series", health.series, "count"],
    ["Records", health.recorded, "count"],
    ["Rejected", health.rejected, "count", "bad"],
    ["Overflowed", health.overflowed, "count", "bad"],
    ["Stream drops", clients.dropped, "count", "bad"],
    ["Errors", typeof health.error_rate === "number" ? 100 * health.error_rate : undefined, "percent"],
  ].map(([title, value, unit, kind]) => ({
    title,
    text: `${kind === "bad" && value > 0 ? "▲ " : ""}${measurement(value, unit)}`,
    whole: exact(value, unit),
    isBad: kind === "bad" && value > 0,
  }));
  facts.push({ title: "Streams", text: `${clients.open ?? "–"} of ${clients.maximum ?? "–"}`, whole: "open streams, and the most that are allowed" });
  facts.push({ title: "Uptime", text: age(health.uptime_seconds ?? 0), whole: exact(health.uptime_seconds, "seconds") });
  if (service.processes > 1) facts.push({ title: "Processes", text: String(service.processes), whole: counted(service.processes, "process", "processes") });
  const list = find("facts");
  while (list.children.length > facts.length) list.lastChild.remove();
  while (list.children.length < facts.length) list.append(element("div", {}, element("dt"), element("dd")));
  facts.forEach(({ title, text, whole, isBad }, index) => {
    const [term, amount] = list.children[index].children;
    setText(term, title);
    setText(amount, text);
    amount.title = whole;
    amount.classList.toggle("bad", Boolean(isBad));
  });
  setText(find("version"), service.version ? `metrics-framework ${printable(service.version, 30)}` : "metrics-framework");
}

function showLibrary() {
  const note = find("library");
  note.hidden = library.problem === "";
  setText(note, library.problem === "" ? "" : `Charts are not available (${printable(library.problem, 200)}). Tables show the same numbers.`);
}

// -- the connection ----------------------------------------------------------------------------------------

const STATES = {
  connecting: "… Connecting",
  live: "● Live",
  stale: "▲ Stale",
  lost: "▲ Connection lost",
  refused: "▲ Refused",
  paused: "‖ Paused",
};

function showConnection() {
  const { state } = connection;
  find("connection").dataset.state = state;
  setText(find("connection"), STATES[state]);
  find("announcement").textContent = {
    stale: "The numbers are old: the server sends no new ones.",
    lost: "Connection lost. Trying to connect again.",
    refused: "The server refused the request.",
    live: "Connected.",
    paused: "Paused.",
    connecting: "",
  }[state];
  if (state === "refused") find("waiting").hidden = true;
  showAge();
}

/** Say how old the numbers are. Screen readers get only the changes of the state, not each second. */
function showAge() {
  const { state, receivedAt, retryAt, reason } = connection;
  const notice = find("notice");
  notice.hidden = state === "live" || (state === "connecting" && receivedAt === null && !find("tiles").hasChildNodes());
  if (notice.hidden) return;
  const generatedAt = Date.parse(last?.dashboard?.generated_at);
  const seconds = (Date.now() - receivedAt) / 1000;
  const old = receivedAt === null || Number.isNaN(generatedAt)
    ? "There are no numbers yet."
    : `The numbers are from ${clock(generatedAt)}, ${age(seconds)} ago.`;
  const why = reason === "" ? "" : ` The server answered: ${reason}.`;
  const retry = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  setText(notice, {
    connecting: "Connecting…",
    stale: `No new numbers arrive. ${old}${why}`,
    lost: `Connection lost. ${old}${why} ${retry > 0 ? `Trying again in ${retry} s.` : "Trying again…"}`,
    refused: `The server refused the request: ${reason}. Change the filter or the range.`,
    paused: `Paused. ${old}`,
  }[state]);
  notice.dataset.state = state;
}

setInterval(showAge, 1000);

// -- controls ----------------------------------------------------------------------------------------------

function showTabs() {
  for (const name of TABS) {
    const tab = find(`tab-${name}`);
    const isChosen = name === view.tab;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    if (isChosen && name === "history") tab.hidden = false;
  }
  find("panel").setAttribute("aria-labelledby", `tab-${view.tab}`);
  setText(find("panel-title"), find(`tab-${view.tab}`).textContent);
}

function chooseTab(name) {
  if (name === view.tab) return;
  view.tab = name;
  openView();
}

/** The keys of the ARIA pattern for tabs: arrows, Home and End. */
function moveAmongTabs(event) {
  const tabs = TABS.filter((name) => !find(`tab-${name}`).hidden);
  const place = tabs.indexOf(view.tab);
  const target = {
    ArrowRight: (place + 1) % tabs.length,
    ArrowLeft: (place - 1 + tabs.length) % tabs.length,
    Home: 0,
    End: tabs.length - 1,
  }[event.key];
  if (target === undefined) return;
  event.preventDefault();
  chooseTab(tabs[target]);
  find(`tab-${tabs[target]}`).focus();
}

function showFilter() {
  const chips = view.tags.map((tag) => {
    const remove = element("button", { type: "button", class: "chip", "aria-label": `Remove the filter ${printable(tag)}` }, foreign(tag), " ✕");
    remove.addEventListener("click", () => {
      view.tags = view.tags.filter((one) => one !== tag);
      openView();
      find("tag").focus();
    });
    return element("li", {}, remove);
  });
  find("chips").replaceChildren(...chips);
  find("range").value = String(view.seconds);
}

function addTag() {
  const tag = find("tag").value.trim();
  const isTag = tag.indexOf(":") > 0;
  find("tag").setCustomValidity(tag === "" || isTag ? "" : "A tag is key:value, as in route:/orders");
  if (!find("tag").reportValidity() || !isTag) return;
  find("tag").value = "";
  if (view.tags.includes(tag)) return;
  view.tags = withTag(view.tags, tag);
  openView();
}

function showKnownTags(known) {
  const tags = Object.entries(known ?? {}).flatMap(([key, values]) => (Array.isArray(values) ? values : []).map((value) => `${key}:${value}`));
  const list = find("known-tags");
  const shape = tags.join("\n");
  if (list.dataset.shape === shape) return;
  list.dataset.shape = shape;
  list.replaceChildren(...tags.map((tag) => element("option", { value: tag })));
}

function togglePause() {
  isPaused = !isPaused;
  find("pause").setAttribute("aria-pressed", String(isPaused));
  if (isPaused) connection.pause();
  else openView();
}

function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  find("theme").value = theme;
  redrawCharts();
}

function redrawCharts() {
  grid.forgetCharts();
  if (last !== null) draw();
}

function storedTheme() {
  try {
    const theme = localStorage.getItem(THEME_KEY);
    return ["light", "dark"].includes(theme) ? theme : "auto";
  } catch {
    return "auto"; // storage is turned off
  }
}

function storeTheme(theme) {
  try {
    localStorage.setItem(THEME_KEY, theme);
  } catch {
    // The choice lasts until the page is closed.
  }
}

// -- start -------------------------------------------------------------------------------------------------

for (const name of TABS) find(`tab-${name}`).addEventListener("click", () => chooseTab(name));
find("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is the view
  find("panel").focus();
});
find("tabs").addEventListener("keydown", moveAmongTabs);
find("range").addEventListener("change", (event) => {
  view.seconds = Number(event.target.value);
  openView();
});
find("filter").addEventListener("submit", (event) => {
  event.preventDefault();
  addTag();
});
find("tag").addEventListener("input", () => find("tag").setCustomValidity(""));
find("pause").addEventListener("click", togglePause);
find("theme").addEventListener("change", (event) => {
  storeTheme(event.target.value);
  applyTheme(event.target.value);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);

applyTheme(storedTheme());
openView();
requestAnimationFrame(() => setTimeout(() => library.load(), 0)); // after the first paint
