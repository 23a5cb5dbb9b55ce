/**
 * The History tab: the recorded runs, and two of them side by side with the verdict.
 */

import { element, fillTable, foreign, printable, setText } from "./elements.js";
import { change, counted, day, exact, measurement } from "./format.js";

const RUNS_AT_ONCE = 50;

/** Metrics of a run that the list shows, if any run has them: the key, the title and the unit. */
const LISTED_METRICS = [
  ["latency.p95", "p95", "milliseconds"],
  ["throughput", "Throughput", "ops/sec"],
  ["success_rate", "Success", "ratio"],
];

/** Tags that the framework sets for itself: they differ in each run, or say what the list shows already. */
const INTERNAL_TAGS = new Set(["commit_date", "distributions", "head_commit", "latency_metric", "pair"]);

/** Verdicts differ in their sign too, not only in color. */
const SIGNS = { regression: "✕", improvement: "✓", changed: "≠", "no change": "=", inconclusive: "?" };

export class HistoryView {
  /**
   * @param root The element to fill.
   * @param onChoice Called with the ids of the chosen runs, `{baseline, current}`.
   */
  constructor(root, onChoice) {
    this._root = root;
    this._onChoice = onChoice;
    this._runs = [];
    this._shown = RUNS_AT_ONCE;
    this._chosen = { baseline: null, current: null };
  }

  /** Load the runs and compare two. Without a choice, these are the last two. */
  async open({ baseline, current }) {
    this._note = element("p", { class: "note", role: "status" }, "Loading the runs…");
    this._comparison = element("section", { class: "card wide comparison", "aria-label": "Comparison" });
    this._list = element("section", { class: "card wide", "aria-label": "Runs" });
    this._root.replaceChildren(this._note, this._comparison, this._list);
    this._comparison.hidden = this._list.hidden = true;
    const { body, problem } = await fetchJson("history");
    if (!this._list.isConnected) return;
    if (problem) return setText(this._note, `The history is not available: ${problem}`);
    this._runs = (Array.isArray(body?.runs) ? body.runs : []).filter((run) => typeof run?.run_id === "string");
    this._runs.sort((one, other) => String(other.timestamp ?? "").localeCompare(String(one.timestamp ?? "")));
    if (this._runs.length === 0) return setText(this._note, "The folder has no runs yet.");
    const has = (id) => this._runs.some((run) => run.run_id === id);
    this._chosen = {
      current: has(current) ? current : this._runs[0].run_id,
      baseline: has(baseline) ? baseline : (this._runs[1] ?? this._runs[0]).run_id,
    };
    const number = `${body.has_more === true ? "The newest " : ""}${counted(this._runs.length, "run")}`;
    const unreadable = body.unreadable > 0 ? ` ${counted(body.unreadable, "file")} cannot be read.` : "";
    setText(this._note, `${number} in the folder ${printable(body.folder)}. Choose two to compare them.${unreadable}`);
    this._fillList();
    await this._compare();
  }

  _fillList() {
    const metrics = LISTED_METRICS.filter(([key]) => this._runs.some((run) => typeof run.metrics?.[key] === "number"));
    const runs = this._runs.slice(0, this._shown);
    const common = commonTags(runs);
    const columns = [
      { title: "Time" }, { title: "Baseline" }, { title: "Current" }, { title: "Commit" }, { title: "Branch" },
      { title: "Tags" }, ...metrics.map(([, title]) => ({ title, number: true })),
    ];
    const table = element("table", { class: "stacked runs" });
    fillTable(table, columns, runs.map((run) => [
      { text: printable(day(run.timestamp)), title: printable(run.run_id) },
      this._radio("baseline", run),
      this._radio("current", run),
      textCell(String(run.commit ?? "–").slice(0, 12)),
      textCell(run.branch ?? "–"),
      { key: run.run_id, create: () => tagList(tagsOf(run).filter((tag) => !common.includes(tag))) },
      ...metrics.map(([key, , unit]) => metricCell(run.metrics?.[key], unit)),
    ]));
    const more = element("button", { type: "button", hidden: this._shown >= this._runs.length }, "Show more runs");
    more.addEventListener("click", () => {
      this._shown += RUNS_AT_ONCE;
      this._fillList();
    });
    const shared = common.length ? element("p", { class: "note shared" }, "All of these runs have ", tagList(common)) : null;
    this._list.replaceChildren(...[element("h3", {}, "Runs"), shared, table, more].filter(Boolean));
    this._list.hidden = false;
  }

  _radio(side, run) {
    return {
      key: `${side} ${run.run_id}`,
      create: () => {
        const label = `${side === "baseline" ? "Baseline" : "Current"}: ${printable(day(run.timestamp))}, ${printable(run.commit ?? run.run_id, 20)}`;
        const input = element("input", { type: "radio", name: side, "aria-label": label, checked: this._chosen[side] === run.run_id });
        input.addEventListener("change", () => {
          this._chosen[side] = run.run_id;
          this._compare();
        });
        return input;
      },
    };
  }

  async _compare() {
    const asked = { ...this._chosen };
    this._onChoice(asked);
    this._comparison.setAttribute("aria-busy", "true");
    const { body, problem } = await fetchJson(`history/compare?${new URLSearchParams(asked)}`);
    if (asked.baseline !== this._chosen.baseline || asked.current !== this._chosen.current) return; // a later choice
    this._comparison.removeAttribute("aria-busy");
    this._comparison.hidden = false;
    if (problem) {
      this._comparison.replaceChildren(element("h3", {}, "No comparison"), element("p", { class: "problem" }, problem));
      return;
    }
    const rows = Array.isArray(body?.rows) ? body.rows : [];
    const notes = (Array.isArray(body?.notes) ? body.notes : []).map((note) => printable(note, 300));
    const remarks = new Set(rows.map((row) => printable(row?.note ?? "", 300)));
    const isNoted = remarks.size > 1; // a remark about all rows is said once
    if (!isNoted) notes.push(...[...remarks].filter(Boolean).map((remark) => `each metric: ${remark}`));
    if (body?.rows_left_out > 0) notes.push(`${counted(body.rows_left_out, "more metric")} not shown`);
    const columns = ["Metric", "Baseline", "Current", "Change", "Interval", "Verdict", ...(isNoted ? ["Note"] : [])];
    const table = element("table", { class: isNoted ? "stacked noted" : "stacked" });
    fillTable(
      table,
      columns.map((title, index) => ({ title, number: index > 0 && index < 5 })),
      rows.map((row) => comparisonRow(row).slice(0, columns.length)),
    );
    this._comparison.replaceChildren(
      element("h3", { class: "conclusion" }, printable(body?.conclusion ?? "Two runs", 300)),
      element(
        "dl",
        { class: "sides" },
        ...side("Baseline", body?.baseline, body?.baseline_runs, body?.baseline_jobs),
        ...side("Current", body?.current, body?.current_runs, body?.current_jobs),
      ),
      table,
      element("ul", { class: "notes" }, ...notes.map((note) => element("li", {}, note))),
    );
  }
}

/** Return a side of a comparison: what it consists of, and the run that was chosen for it. */
function side(title, run, runs, jobs) {
  const commit = run?.commit ? String(run.commit).slice(0, 12) : "";
  const of = jobs > 0 ? ` of ${counted(jobs, "job")}` : "";
  const size = runs > 0 ? `${counted(runs, "run")}${of}${commit && ` of commit ${commit}`}` : commit;
  const chosen = `${runs > 1 ? "chosen: " : ""}${day(run?.timestamp)}`;
  const facts = [size, run?.branch, environmentText(run?.environment), chosen];
  const shown = facts.filter(Boolean).flatMap((fact, index) => [index ? " · " : "", foreign(fact)]);
  return [element("dt", {}, title), element("dd", {}, ...shown)];
}

function environmentText(environment) {
  if (environment === null || typeof environment !== "object") return environment;
  return Object.values(environment).filter((value) => typeof value !== "object").slice(0, 4).join(", ");
}

function comparisonRow(row) {
  const verdict = String(row?.verdict ?? "");
  const [low, high] = Array.isArray(row?.interval_percent) ? row.interval_percent : [null, null];
  return [
    { key: printable(row?.metric, 300), create: () => foreign(row?.metric ?? "") },
    metricCell(row?.baseline, row?.unit),
    metricCell(row?.current, row?.unit),
    { text: change(row?.change_percent) },
    { text: low === null ? "–" : `${change(low)} to ${change(high)}` },
    {
      key: verdict,
      create: () => element("span", { class: "verdict", "data-verdict": verdict }, `${SIGNS[verdict] ?? "·"} ${printable(verdict)}`),
    },
    noteCell(row?.note ?? ""),
  ];
}

function metricCell(value, unit) {
  if (unit === "ratio") return { text: measurement(typeof value === "number" ? 100 * value : null, "percent"), title: exact(value, "") };
  return { text: measurement(value, unit), title: exact(value, unit ?? "") };
}

function textCell(text) {
  return { key: printable(text, 300), create: () => element("span", { class: "short" }, foreign(text)) };
}

function noteCell(text) {
  return { text: printable(text, 300) };
}

function tagsOf(run) {
  return Object.entries(run.tags ?? {}).filter(([key]) => !INTERNAL_TAGS.has(key)).map(([key, value]) => `${key}:${value}`);
}

/** Return the tags that all runs have, if there are several runs. */
function commonTags(runs) {
  const tags = runs.map(tagsOf);
  return runs.length > 1 ? tags[0].filter((tag) => tags.every((others) => others.includes(tag))) : [];
}

function tagList(tags) {
  return element("span", { class: "tags" }, ...tags.slice(0, 6).map((tag) => element("span", { class: "tag" }, foreign(tag))));
}

/** Return the JSON of a URL, or the problem in one line. */
async function fetchJson(url) {
  try {
    const response = await fetch(url, { headers: { Accept: "application/json" } });
    if (response.status === 401) location.reload();
    if (!response.ok) return { problem: printable((await response.text()).trim(), 300) || `status ${response.status}` };
    return { body: await response.json() };
  } catch {
    return { problem: "the server does not answer" };
  }
}
