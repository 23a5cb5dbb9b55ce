/**
 * Draws a dashboard: a card for each panel, kept and updated while the panel stays.
 *
 * Each kind of panel has a class. A kind that this page does not know is drawn as a table.
 */

import { BAR_HEIGHT, LINE_STYLES, drawChart } from "./charts.js";
import { element, fillTable, printable, seriesLabel, seriesText, setText, svgElement } from "./elements.js";
import { clock, counted, exact, isNumber, linearTicks, logTicks, measure, measurement, tickLabel, timeTicks } from "./format.js";

/** Panels whose values are usually far below the end of their axis: the axis ends near the values instead. */
const ZOOMED_PANELS = new Set(["error-rate"]);

const WIDE_TABLE_COLUMNS = 4;

/** All cards of a dashboard. Draws one chart in each task, so that no task blocks the page. */
export class PanelGrid {
  /**
   * @param tiles The element of the stat panels.
   * @param cards The element of all others.
   * @param library The `ChartLibrary`.
   */
  constructor(tiles, cards, library) {
    this._places = { tiles, cards };
    this._library = library;
    this._shown = new Map(); // a card by the id of its panel
    this._next = null;
    this._last = null;
    this._isDrawing = false;
    cards.addEventListener("redraw", () => this._last !== null && this.show(this._last.dashboard, this._last.constantTags));
  }

  /**
   * Draw a dashboard. If one is being drawn, draw only the newest one after it.
   *
   * @param dashboard The document.
   * @param constantTags The tags of the service, which the header shows: series are drawn without them.
   */
  async show(dashboard, constantTags) {
    this._next = this._last = { dashboard, constantTags: constantTags ?? {} };
    if (this._isDrawing) return;
    this._isDrawing = true;
    try {
      while (this._next !== null) {
        const taken = this._next;
        this._next = null;
        await this._draw(taken);
      }
    } finally {
      this._isDrawing = false;
    }
  }

  /** Remove all cards. */
  clear() {
    this._next = this._last = null;
    for (const card of this._shown.values()) card.remove();
    this._shown.clear();
  }

  /** Remove the charts, because the colors have changed. The next dashboard draws them again. */
  forgetCharts() {
    for (const card of this._shown.values()) card.forgetChart();
  }

  async _draw({ dashboard, constantTags }) {
    const filter = Object.entries(dashboard.tags ?? {}).map(([key, value]) => printable(`${key}:${value}`)).join(" ");
    const given = Array.isArray(dashboard.panels) ? dashboard.panels : [];
    const panels = given.map((panel, index) => ({ ...completed(panel, index, constantTags), filter }));
    const time = timeOf(dashboard, panels);
    this._arrange(panels);
    for (const panel of panels) {
      const card = this._shown.get(panel.id);
      if (card === undefined) return; // cleared in the meantime
      try {
        await card.update(panel, time, this._library);
      } catch (error) {
        card.fail(error);
      }
      if (card.hasChart) await nextTask();
    }
  }

  _arrange(panels) {
    const ids = new Set(panels.map((panel) => panel.id));
    for (const [id, card] of this._shown) {
      const panel = panels.find((one) => one.id === id);
      if (!ids.has(id) || card.kind !== panel.kind) {
        card.remove();
        this._shown.delete(id);
      }
    }
    const last = { tiles: null, cards: null };
    for (const panel of panels) {
      const place = panel.kind === "stat" ? "tiles" : "cards";
      let card = this._shown.get(panel.id);
      if (card === undefined) {
        card = new (KINDS[panel.kind] ?? TableCard)(panel);
        this._shown.set(panel.id, card);
      }
      const after = last[place] === null ? this._places[place].firstChild : last[place].nextSibling;
      if (after !== card.root) this._places[place].insertBefore(card.root, after);
      last[place] = card.root;
    }
  }
}

/** Let the browser handle input and paint. */
function nextTask() {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

// -- documents ---------------------------------------------------------------------------------------------

/** Return a panel in which every field that the cards read exists and has its type. */
function completed(panel, index, constantTags) {
  const given = panel !== null && typeof panel === "object" ? panel : {};
  const list = (value) => (Array.isArray(value) ? value : []);
  return {
    id: String(given.id ?? `panel-${index}`),
    title: String(given.title ?? "Untitled"),
    description: String(given.description ?? ""),
    kind: String(given.kind ?? "table"),
    unit: String(given.unit ?? "count"),
    maximum: isNumber(given.maximum) ? given.maximum : null,
    thresholds: list(given.thresholds).filter((one) => isNumber(one?.value)),
    columns: list(given.columns),
    series: numbered(list(given.series).map((series) => ({
      name: String(series?.name ?? ""),
      tags: without(series?.tags, constantTags),
      value: isNumber(series?.value) ? series.value : null,
      values: list(series?.values),
      points: list(series?.points).filter((point) => isNumber(point?.[0]) && isNumber(point?.[1])),
      cells: list(series?.cells).filter((cell) => Array.isArray(cell) && cell.length === 5 && cell.every(isNumber)),
    }))),
  };
}

function without(tags, constantTags) {
  if (tags === null || typeof tags !== "object") return {};
  return Object.fromEntries(Object.entries(tags).filter(([key, value]) => constantTags[key] !== value));
}

/** Number the series that look the same, such as an operation and a counter of one name: `number` is 1, 2, … */
function numbered(series) {
  const counts = new Map();
  return series.map((one) => {
    const text = seriesText(one);
    const number = (counts.get(text) ?? 0) + 1;
    counts.set(text, number);
    return { ...one, number };
  });
}

function emptyText(panel) {
  return panel.filter === "" ? "No data in this time range." : `No data with ${panel.filter} in this time range.`;
}

const LEAST_AXIS_MILLISECONDS = 60_000;

/**
 * Return the axis of time of a dashboard, in milliseconds since 1970.
 *
 * It begins with the first interval, if there is nothing before it: a young service would else be a narrow strip.
 * `starts` are the starts of all intervals: an interval that a line skips is a gap.
 */
function timeOf(dashboard, panels) {
  const now = Date.parse(dashboard.generated_at);
  const to = Number.isNaN(now) ? Date.now() : now;
  const begin = to - 1000 * (isNumber(dashboard.window_seconds) ? dashboard.window_seconds : 3600);
  const starts = new Set();
  for (const panel of panels) {
    for (const series of panel.series) for (const [seconds] of series.points) starts.add(1000 * seconds);
  }
  const sorted = [...starts].sort((one, other) => one - other);
  const from = Math.max(begin, Math.min(sorted[0] ?? begin, to - LEAST_AXIS_MILLISECONDS));
  return { from, to, starts: sorted };
}

/** Return the rows of lines as steps: each point lasts until the next interval starts. */
function steps(series, style, { to, starts }) {
  const rows = [];
  let place = 0;
  series.points.forEach(([seconds, value], index) => {
    const time = 1000 * seconds;
    while (place < starts.length && starts[place] <= time) place += 1;
    const end = starts[place] ?? to;
    const next = series.points[index + 1];
    rows.push({ key: `${style} ${time}`, time, value, style });
    if (next === undefined || 1000 * next[0] > end) {
      rows.push({ key: `${style} until ${end}`, time: end, value, style });
      rows.push({ key: `${style} gap ${end}`, time: end, value: null, style });
    }
  });
  return rows;
}

// -- cards -------------------------------------------------------------------------------------------------

let created = 0; // makes the ids of elements unique

/** A card with a title, a description and one line for problems. */
class Card {
  constructor(panel, { className }) {
    created += 1;
    this.kind = panel.kind;
    this.hasChart = false;
    this.hasFailed = false;
    this.title = element("h3", { id: `card-${created}` });
    this.aside = element("p", { class: "aside" });
    this.description = element("p", { class: "description" });
    this.problem = element("p", { class: "problem", hidden: true });
    this.root = element(
      "article",
      { class: `card ${className}`, "aria-labelledby": this.title.id, "data-panel": panel.id },
      element("header", {}, this.title, this.aside),
      this.description,
      this.problem,
    );
  }

  async update(panel) {
    setText(this.title, printable(panel.title));
    setText(this.description, printable(panel.description, 300));
    this.showProblem(panel.series.length === 0 ? emptyText(panel) : "");
  }

  showProblem(text) {
    setText(this.problem, text);
    this.problem.hidden = text === "";
  }

  /** Say that the panel cannot be drawn, and log the error once. */
  fail(error) {
    if (!this.hasFailed) console.error(error);
    this.hasFailed = true;
    this.showProblem("This panel cannot be drawn.");
  }

  forgetChart() {}

  remove() {
    this.forgetChart();
    this.root.remove();
  }
}

/** A card with a chart, a summary for screen readers, and the same numbers as a table. */
class ChartCard extends Card {
  constructor(panel, { className, chart }) {
    super(panel, { className });
    this.chartKind = chart;
    this.chart = null;
    this.theme = 0; // counts changes, because a chart takes a while to draw
    this.plot = element("div", { class: `plot plot-${chart}`, "aria-hidden": "true" });
    this.image = element("div", { class: "image", role: "img" }, this.plot);
    this.table = element("table");
    this.details = element("details", {}, element("summary", {}, "Numbers as a table"), this.table);
    this.details.addEventListener("toggle", () => this.details.open && this._fillTable());
    this.root.append(this.image, this.description, this.details);
  }

  /** Draw `signals` and `data`. Without the library, the table is shown instead. */
  async draw(panel, time, library, { signals, data, summary, columns, rows }) {
    const isEmpty = panel.series.length === 0;
    this._rows = { columns, rows };
    this.image.setAttribute("aria-label", summary);
    this.image.hidden = isEmpty || library.problem !== "";
    this.details.hidden = isEmpty;
    if (library.problem !== "" && !this._wasOpened) {
      this._wasOpened = true; // once: a reader may close it again
      this.details.open = true;
    }
    if (this.details.open) this._fillTable();
    this.hasChart = !isEmpty && library.ready;
    if (!this.hasChart) return;
    if (this.chart?.isWorn) this.forgetChart();
    if (this.chart === null) {
      const theme = this.theme;
      const drawn = await drawChart(this.chartKind, this.plot);
      await nextTask();
      if (theme !== this.theme || !this.root.isConnected) return drawn.remove();
      this.chart = drawn;
    }
    await this.chart.update(signals(), data());
  }

  _fillTable() {
    if (this._rows) fillTable(this.table, this._rows.columns(), this._rows.rows());
  }

  forgetChart() {
    this.theme += 1;
    this.chart?.remove();
    this.chart = null;
  }
}

/** A large number with its unit, its state, and a small line. */
class StatCard extends ChartCard {
  constructor(panel) {
    super(panel, { className: "tile", chart: "spark" });
    this.number = element("span", { class: "number" });
    this.unit = element("span", { class: "unit" });
    this.state = element("p", { class: "state" });
    this.value = element("p", { class: "value" }, this.number, this.unit);
    this.image.before(this.value, this.state);
  }

  async update(panel, time, library) {
    await super.update(panel);
    const [first] = panel.series;
    const { number, unit } = measure(first?.value, panel.unit);
    setText(this.number, number);
    setText(this.unit, unit);
    this.value.hidden = first === undefined;
    this.value.title = exact(first?.value, panel.unit);
    this._showState(panel, first?.value);
    const points = first?.points ?? [];
    const values = points.map((point) => point[1]);
    const ticks = linearTicks(Math.max(...values, 0));
    const drawn = { ...panel, series: points.length > 1 ? [first] : [] };
    await this.draw(drawn, time, library, {
      signals: () => ({ from: time.from, to: time.to, low: Math.min(...values, 0), high: ticks.at(-1) }),
      data: () => ({ points: steps(first, "0", time) }),
      summary: lineSummary(drawn),
      columns: () => lineColumns(drawn),
      rows: () => lineRows(drawn, time),
    });
    this.details.hidden = true; // the chart with axes is in another panel
  }

  _showState(panel, value) {
    const broken = panel.thresholds.filter((one) => isBeyond(value, one));
    const worst = broken.find((one) => one.severity === "critical") ?? broken[0];
    const [limit] = panel.thresholds;
    const state = worst ? (worst.severity === "critical" ? "critical" : "warning") : limit ? "ok" : "none";
    const text = worst
      ? `${state === "critical" ? "▲ Critical" : "▲ Warning"}: ${thresholdText(worst, panel.unit)}`
      : limit && value !== null && value !== undefined
        ? `OK, limit ${measurement(limit.value, panel.unit)}`
        : "";
    setText(this.state, text);
    this.state.hidden = text === "";
    this.root.dataset.state = state;
  }
}

function isBeyond(value, threshold) {
  if (!isNumber(value)) return false;
  return threshold.direction === "below" ? value < threshold.value : value > threshold.value;
}

function thresholdText(threshold, unit) {
  return `${threshold.direction === "below" ? "below" : "above"} ${measurement(threshold.value, unit)}`;
}

/** Lines over time, with a legend that shows the value of the window, or of the time under the pointer. */
class LineCard extends ChartCard {
  constructor(panel) {
    super(panel, { className: "", chart: "line" });
    this.legend = element("ul", { class: "legend" });
    this.limits = element("p", { class: "limits" });
    this.description.before(this.legend, this.limits);
    this.slots = new Map(); // the line style of a series, which stays when the order changes
    this.panel = null;
    this.hovered = null;
    this.plot.addEventListener("pointermove", (event) => this._hover(this.chart?.placeOf(event)?.x ?? null));
    this.plot.addEventListener("pointerleave", () => this._hover(null));
  }

  async update(panel, time, library) {
    await super.update(panel);
    this.panel = panel;
    this._assignSlots(panel.series);
    this._fillLegend();
    const signals = this._signals(panel, time);
    this._showLimits(panel);
    await this.draw(panel, time, library, {
      signals: () => signals,
      data: () => ({
        points: panel.series.flatMap((series) => steps(series, String(this.slots.get(seriesText(series))), time)),
        thresholds: this._thresholds(panel),
      }),
      summary: lineSummary(panel),
      columns: () => lineColumns(panel),
      rows: () => lineRows(panel, time),
    });
  }

  _assignSlots(series) {
    const names = new Set(series.map(seriesText));
    for (const name of this.slots.keys()) if (!names.has(name)) this.slots.delete(name);
    for (const name of names) {
      if (this.slots.has(name)) continue;
      const used = new Set(this.slots.values());
      this.slots.set(name, LINE_STYLES.findIndex((_, slot) => !used.has(slot)));
    }
  }

  _signals(panel, time) {
    const values = panel.series.flatMap((series) => series.points.map((point) => point[1]));
    const peak = Math.max(...values, 0);
    const isFixed = panel.maximum !== null && !ZOOMED_PANELS.has(panel.id);
    const limit = Math.max(0, ...panel.thresholds.map((one) => one.value).filter((value) => value < 2 * peak));
    const ticks = linearTicks(isFixed ? panel.maximum : Math.max(peak, limit));
    this.high = isFixed ? panel.maximum : Math.min(ticks.at(-1), panel.maximum ?? Infinity);
    const { ticks: times, labels } = timeTicks(time.from, time.to, Math.max(2, this.plot.clientWidth / 90));
    return {
      from: time.from,
      to: time.to,
      low: Math.min(...values, 0),
      high: this.high,
      times,
      timeLabels: labels,
      values: ticks,
      valueLabels: ticks.map((tick) => tickLabel(tick, panel.unit)),
      filled: panel.series.length === 1 ? 0.12 : 0,
    };
  }

  _thresholds(panel) {
    return panel.thresholds
      .filter((one) => one.value <= this.high)
      .map((one, index) => ({
        key: index,
        value: one.value,
        style: one.severity === "critical" ? "critical" : "warning",
        label: `${one.severity === "critical" ? "critical" : "warning"} ${thresholdText(one, panel.unit)}`,
      }));
  }

  /** Name the thresholds that are exceeded, and those above the end of the axis, which are not drawn. */
  _showLimits(panel) {
    const texts = panel.thresholds.flatMap((one) => {
      const name = one.severity === "critical" ? "Critical" : "Warning";
      const broken = panel.series.filter((series) => isBeyond(series.value, one)).length;
      if (broken) return [`▲ ${name}: ${broken} of ${panel.series.length} ${thresholdText(one, panel.unit)}`];
      return one.value > this.high ? [`${name} ${thresholdText(one, panel.unit)}`] : [];
    });
    setText(this.limits, texts.join(" · "));
    this.limits.hidden = texts.length === 0;
    const signs = ["critical", "warning"].filter((name) => texts.some((text) => text.toLowerCase().startsWith(`▲ ${name}`)));
    this.limits.dataset.state = signs[0] ?? "none";
  }

  _fillLegend() {
    const { series, unit } = this.panel;
    const shape = series.map((one) => `${this.slots.get(seriesText(one))} ${seriesText(one)}`).join("\n");
    if (this.legend.dataset.shape !== shape) {
      this.legend.dataset.shape = shape;
      this.legend.replaceChildren(...series.map((one) =>
        element("li", {}, swatch(this.slots.get(seriesText(one))), seriesLabel(one), element("span", { class: "amount" })),
      ));
    }
    series.forEach((one, index) => {
      const amount = this.legend.children[index].lastChild;
      const value = this.hovered === null ? one.value : valueAt(one, this.hovered);
      setText(amount, measurement(value, unit));
      amount.title = exact(value, unit);
    });
    setText(this.aside, this.hovered === null ? "" : `at ${clock(this.hovered)}`);
  }

  _hover(time) {
    if (this.chart === null || (time === null && this.hovered === null)) return;
    this.hovered = time;
    this.chart.view.signal("hovered", time ?? -1).runAsync();
    this._fillLegend();
  }
}

/** Return the value of the interval that contains a time. */
function valueAt(series, time) {
  return series.points.findLast((point) => 1000 * point[0] <= time)?.[1] ?? null;
}

/** Return a sample of the line of a series. */
function swatch(slot) {
  const [color, dash] = LINE_STYLES[slot] ?? LINE_STYLES[0];
  const line = svgElement("line", { x1: 0, y1: 5, x2: 26, y2: 5, "stroke-width": 2.5, "stroke-dasharray": dash.join(" ") || "none" });
  line.style.stroke = `var(${color})`;
  return svgElement("svg", { class: "swatch", width: 26, height: 10, "aria-hidden": "true" }, line);
}

function lineSummary(panel) {
  const sentences = panel.series.map((series) => {
    const values = series.points.map((point) => point[1]);
    const range = values.length > 1
      ? `, from ${measurement(Math.min(...values), panel.unit)} to ${measurement(Math.max(...values), panel.unit)}`
      : "";
    return `${seriesText(series)}: ${measurement(series.value, panel.unit)}${range}`;
  });
  return `${printable(panel.title)} over time. ${sentences.join(". ")}.`;
}

function lineColumns(panel) {
  return [{ title: "Time" }, ...panel.series.map((series) => ({ title: seriesText(series), number: true }))];
}

function lineRows(panel, { starts }) {
  const byTime = panel.series.map((series) => new Map(series.points.map(([seconds, value]) => [1000 * seconds, value])));
  const times = starts.filter((time) => byTime.some((values) => values.has(time)));
  return times.reverse().map((time) => [
    { text: clock(time) },
    ...byTime.map((values) => numberCell(values.get(time) ?? null, panel.unit)),
  ]);
}

function numberCell(value, unit) {
  return { text: measurement(value, unit), title: exact(value, unit) };
}

/** Bars, the largest first. */
class BarCard extends ChartCard {
  constructor(panel) {
    super(panel, { className: "", chart: "bar" });
  }

  async update(panel, time, library) {
    await super.update(panel);
    const values = panel.series.map((series) => series.value ?? 0);
    await this.draw(panel, time, library, {
      signals: () => ({ low: Math.min(...values, 0), high: Math.max(...values, 0) || 1, height: BAR_HEIGHT * values.length }),
      data: () => ({
        bars: panel.series.map((series, place) => ({
          key: place,
          place,
          value: series.value ?? 0,
          name: seriesText(series),
          label: measurement(series.value, panel.unit),
        })),
      }),
      summary: `${printable(panel.title)}. ${panel.series.map((series) => `${seriesText(series)}: ${measurement(series.value, panel.unit)}`).join(". ")}.`,
      columns: () => [{ title: "Name" }, { title: "Value", number: true }],
      rows: () => panel.series.map((series) => [seriesCell(series), numberCell(series.value, panel.unit)]),
    });
  }
}

function seriesCell(series) {
  return { key: seriesText(series), create: () => seriesLabel(series) };
}

/** Rows of numbers. */
class TableCard extends Card {
  constructor(panel) {
    super(panel, { className: panel.columns.length >= WIDE_TABLE_COLUMNS ? "wide" : "" });
    this.table = element("table", { class: panel.columns.length > 1 ? "named stacked" : "named" });
    this.root.append(this.table);
  }

  async update(panel) {
    await super.update(panel);
    const columns = panel.columns.length ? panel.columns : [{ title: "Value", unit: panel.unit }];
    this.table.hidden = panel.series.length === 0;
    fillTable(
      this.table,
      [{ title: "Name" }, ...columns.map((column) => ({ title: String(column?.title ?? column?.name ?? ""), number: true }))],
      panel.series.map((series) => [
        seriesCell(series),
        ...columns.map((column, index) =>
          numberCell(panel.columns.length ? series.values[index] : series.value, String(column?.unit ?? panel.unit)),
        ),
      ]),
    );
  }
}

/** How often each value occurred over time. With several operations, a select chooses one. */
class HeatCard extends ChartCard {
  constructor(panel) {
    super(panel, { className: "wide", chart: "heat" });
    this.select = element("select", { "aria-label": "Operation" });
    this.select.addEventListener("change", () => this.root.dispatchEvent(new Event("redraw", { bubbles: true })));
    this.aside.replaceWith(element("p", { class: "aside" }, this.select));
    this.caption = element("p", { class: "caption" });
    this.key = element("p", { class: "heat-key", "aria-hidden": "true" });
    this.description.before(element("div", { class: "caption-row" }, this.caption, this.key));
  }

  async update(panel, time, library) {
    await super.update(panel);
    const series = this._chosen(panel);
    // Older columns are wider: with colors of the counts they would look busier than they were.
    const cells = (series?.cells ?? []).map(([start, end, low, high, count]) => ({
      key: `${start} ${low}`, start: 1000 * start, end: 1000 * end, low, high, count, rate: count / Math.max(end - start, 1),
    }));
    const axis = heatAxis(cells);
    const rows = histogram(cells);
    const total = rows.reduce((sum, row) => sum + row.count, 0);
    const most = cells.reduce((largest, cell) => Math.max(largest, cell.rate), 0);
    const fullest = rows.reduce((best, row) => (row.count > (best?.count ?? 0) ? row : best), null);
    const text = (value) => measurement(value, panel.unit);
    const range = ({ low, high }) => (low > 0 ? `${text(low)} to ${text(high)}` : text(0));
    const caption = fullest
      ? `${counted(total, "value")}, most often ${range(fullest)} (${counted(fullest.count, "value")}).`
      : emptyText(panel);
    setText(this.caption, panel.series.length ? caption : ""); // without series, the card says it
    setText(this.key, `up to ${measurement(most, "ops/sec")} in a cell`);
    this.key.hidden = most === 0;
    const drawn = { ...panel, series: cells.length ? [series] : [] };
    await this.draw(drawn, time, library, {
      signals: () => this._signals(axis, most, panel.unit, time),
      data: () => ({
        cells: cells.map((cell) => ({
          ...cell, low: Math.max(cell.low, axis.low), high: Math.max(cell.high, axis.low * axis.factor),
        })),
      }),
      summary: `${printable(panel.title)}, ${series ? seriesText(series) : ""}. ${caption}`,
      columns: () => [{ title: "Range" }, { title: "Values", number: true }],
      rows: () => rows.map((row) => [{ text: range(row) }, numberCell(row.count, "count")]),
    });
  }

  _chosen(panel) {
    const names = panel.series.map(seriesText);
    if (this.select.dataset.shape !== names.join("\n")) {
      const chosen = this.select.value;
      this.select.dataset.shape = names.join("\n");
      this.select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
      if (names.includes(chosen)) this.select.value = chosen;
    }
    this.select.hidden = names.length < 2;
    return panel.series[Math.max(0, this.select.selectedIndex)];
  }

  _signals({ low, high, floor, hasZeros }, most, unit, time) {
    const least = hasZeros ? low * (high / low) ** 0.08 : 0; // the label of zero needs room
    const ticks = logTicks(floor, high).filter((tick) => tick >= least);
    const { ticks: times, labels } = timeTicks(time.from, time.to, Math.max(2, this.plot.clientWidth / 90));
    return {
      from: time.from, to: time.to, low, high, most: most || 1, times, timeLabels: labels,
      values: hasZeros ? [low, ...ticks] : ticks,
      valueLabels: [...(hasZeros ? [0] : []), ...ticks].map((tick) => tickLabel(tick, unit)),
    };
  }
}

const LEAST_BOUND = 1e-300; // what is smaller has no exact logarithm

/**
 * Return the ends of the logarithmic axis of cells, and the least height of a cell as a factor.
 *
 * Zeros have a row below `floor`, the lowest bound of the others, and as high as one of theirs.
 */
function heatAxis(cells) {
  const positive = cells.filter((cell) => cell.low > 0);
  const hasZeros = positive.length < cells.length;
  const top = Math.max(0, ...cells.map((cell) => cell.high)) || 1;
  const floor = Math.max(Math.min(top, ...positive.map((cell) => cell.low)), LEAST_BOUND);
  const least = Math.min(2, ...positive.map((cell) => cell.high / cell.low));
  const factor = least > 1 ? least : 2;
  const low = Math.max(hasZeros ? floor / factor : floor, LEAST_BOUND);
  return { low, high: Math.max(top, low * factor), floor, factor, hasZeros };
}

/** Return the counts of all times together by the range of values, largest values first. */
function histogram(cells) {
  const rows = new Map();
  for (const { low, high, count } of cells) {
    const row = rows.get(low) ?? { low, high, count: 0 };
    row.count += count;
    rows.set(low, row);
  }
  return [...rows.values()].sort((one, other) => other.low - one.low);
}

const KINDS = { stat: StatCard, line: LineCard, bar: BarCard, table: TableCard, heatmap: HeatCard };
