/**
 * Charts by Vega-Lite. A chart is compiled once; its numbers, ticks and ends of axes are data and signals.
 *
 * The labels of axes are made by `format.js` and given to a chart as a list beside the list of ticks. No text
 * of the application becomes a part of a specification.
 */

import { element } from "./elements.js";

const LIBRARY = "assets/vega.js";
const RETRY_SECONDS = 1;
const MOST_RETRY_SECONDS = 10;

/** How many removed rows Vega keeps track of in each step of a chart. By default it keeps ten thousand. */
const MOST_REMOVED_ROWS = 500;

/** After so many rows, a chart is drawn from the start. */
const MOST_INSERTED_ROWS = 50_000;

/** The lines of a chart differ in color and in dashes. The style sheet defines the colors. */
export const LINE_STYLES = [
  ["--series-1", []],
  ["--series-2", [7, 3]],
  ["--series-3", [2, 2]],
  ["--series-4", [9, 3, 2, 3]],
  ["--series-5", [4, 4]],
  ["--series-6", [12, 4]],
  ["--series-1", [1, 3]],
  ["--series-2", [3, 3, 7, 3]],
  ["--series-3", [10, 2, 2, 2]],
  ["--series-4", [5, 2]],
];

// -- the library -------------------------------------------------------------------------------------------

/**
 * The chart library, which is large and may not be installed.
 *
 * Attributes: `ready` says whether charts can be drawn, `problem` why not, in one line, or "" while it loads.
 */
export class ChartLibrary {
  constructor(onChange) {
    this.ready = false;
    this.problem = "";
    this._onChange = onChange;
    this._failures = 0;
  }

  /** Load it, and retry for as long as the server prepares it. */
  load() {
    const script = element("script", { src: LIBRARY });
    script.addEventListener("load", () => {
      this.ready = typeof window.vegaEmbed === "function";
      this.problem = this.ready ? "" : "the library has another format";
      this._onChange();
    });
    script.addEventListener("error", () => {
      script.remove();
      this._askWhy();
    });
    document.head.append(script);
  }

  async _askWhy() {
    let pause = Math.min(RETRY_SECONDS * 2 ** this._failures, MOST_RETRY_SECONDS);
    this._failures += 1;
    try {
      const response = await fetch(LIBRARY);
      const isPreparing = response.status === 503 && response.headers.has("Retry-After");
      if (!response.ok && !isPreparing) {
        this.problem = (await response.text()).trim().split("\n")[0] || `status ${response.status}`;
        pause = null;
      } else if (isPreparing) {
        pause = Math.min(pause, 2); // preparing takes seconds, once
      }
    } catch {
      this.problem = this._failures > 3 ? "the library did not load" : "";
    }
    if (pause !== null) setTimeout(() => this.load(), 1000 * pause);
    this._onChange();
  }
}

// -- a chart -----------------------------------------------------------------------------------------------

/** A drawn chart. Create it with `drawChart`. */
class Chart {
  constructor(kind, container, result) {
    this._kind = kind;
    this._container = container;
    this._width = this._height = 0;
    this._result = result;
    this._labels = "";
    this._rows = new Map(); // the rows of each data, by their keys
    this.insertedRows = 0;
    this.view = result.view;
    this.view.cleanThreshold = MOST_REMOVED_ROWS;
    this._observer = new ResizeObserver(() => requestAnimationFrame(() => this._resize()));
    this._observer.observe(container);
    this._resize();
  }

  /**
   * Replace signals and data, and draw. A signal `height` is the height of the chart in pixels.
   *
   * Each row has a `key`, which is unique in its data. Vega gets only the rows that differ from those before, which
   * are few, because it works on each row that it gets, and never forgets one completely.
   */
  async update({ height, ...signals }, data) {
    const changes = Object.entries(data).map(([name, rows]) => ({ name, ...this._difference(name, rows) }));
    if (changes.some(({ removed }) => removed.length)) {
      for (const { name, removed } of changes) this.view.remove(name, removed);
      await this.view.runAsync(); // a second change of the same data before it would replace the first one
    }
    for (const { name, inserted } of changes) if (inserted.length) this.view.insert(name, inserted);
    for (const [name, value] of Object.entries(signals)) this.view.signal(name, value);
    if (height !== undefined) this.view.height(height);
    const labels = `${height} ${signals.valueLabels}`;
    if (labels !== this._labels) this.view.resize(); // their width is a part of the layout
    this._labels = labels;
    await this.view.runAsync();
  }

  _difference(name, rows) {
    const before = this._rows.get(name) ?? new Map();
    const after = new Map();
    const inserted = [];
    for (const row of rows) {
      const known = before.get(row.key);
      const isSame = known !== undefined && Object.keys(row).every((field) => row[field] === known[field]);
      if (!isSame) inserted.push(row);
      else before.delete(row.key);
      after.set(row.key, isSame ? known : row);
    }
    this._rows.set(name, after);
    this.insertedRows += inserted.length;
    return { inserted, removed: [...before.values()] };
  }

  /** Whether it should be drawn from the start, because Vega remembers too many rows. */
  get isWorn() {
    return this.insertedRows > MOST_INSERTED_ROWS;
  }

  /** Return the place of a pointer in the units of the axes, or null outside of the axes. */
  placeOf(event) {
    const box = this._container.getBoundingClientRect();
    const [left, top] = this.view.origin();
    const x = event.clientX - box.left - left;
    const y = event.clientY - box.top - top;
    if (x < 0 || x > this.view.signal("width")) return null;
    return { x: this.view.scale("x").invert(x), y: this.view.scale("y").invert?.(y) };
  }

  remove() {
    this._observer.disconnect();
    this._result.finalize();
    this._container.replaceChildren();
  }

  /** The style sheet sets the size, except the height of bars, which depends on their number. */
  _resize() {
    const { clientWidth: width, clientHeight: height } = this._container;
    if (width === 0 || (width === this._width && height === this._height)) return;
    [this._width, this._height] = [width, height];
    this.view.width(width).resize();
    if (this._kind !== "bar") this.view.height(height);
    this.view.runAsync();
  }
}

const compiled = new Map(); // a specification of Vega by its kind and theme; compiling takes longer than drawing

/** Draw a chart of a kind of `SPECIFICATIONS` in an element. The colors are those of the theme now. */
export async function drawChart(kind, container) {
  const colors = readColors(container);
  const theme = `${kind} ${colors.text} ${colors.size}`;
  const known = compiled.get(theme);
  const result = await window.vegaEmbed(container, known ?? SPECIFICATIONS[kind](colors), {
    mode: known === undefined ? "vega-lite" : "vega",
    ast: true, // an interpreter, because the content security policy forbids eval
    actions: false,
    defaultStyle: false,
    tooltip: false,
    renderer: kind === "heat" ? "canvas" : "svg", // thousands of cells are too many elements
  });
  compiled.set(theme, result.vgSpec);
  return new Chart(kind, container, result);
}

/** Return colors as Vega understands them: the style sheet may use functions such as light-dark(). */
function readColors(container) {
  const probe = element("span");
  container.append(probe);
  const colors = {};
  const names = ["text", "muted", "grid", "card", "accent", "warning", "critical", "heat-0", "heat-1", "heat-2"];
  for (const name of [...names, ...LINE_STYLES.map(([variable]) => variable.slice(2))]) {
    probe.style.color = `var(--${name})`;
    colors[name] = getComputedStyle(probe).color;
  }
  colors.font = getComputedStyle(container).fontFamily;
  colors.size = Math.round(parseFloat(getComputedStyle(container).fontSize));
  probe.remove();
  return colors;
}

// -- specifications ----------------------------------------------------------------------------------------

const SPECIFICATIONS = { line: lineChart, spark: sparkLine, bar: barChart, heat: heatMap };

const TIME = { type: "quantitative", scale: { domain: [{ expr: "from" }, { expr: "to" }], nice: false, zero: false } };
const LABELLED_TIME = {
  ...TIME,
  axis: { values: { expr: "times" }, labelExpr: "timeLabels[indexof(times, datum.value)]", grid: false, labelFlush: true },
};

/** A line breaks at a gap. The gap is not filtered, because a filter keeps track of each row that it removes. */
const STEPS = { clip: true, interpolate: "step-after", invalid: "break-paths-show-domains" };

function labelledValue(type) {
  const domain = [{ expr: "low" }, { expr: "high" }];
  return {
    type: "quantitative",
    scale: type === "log" ? { type, domain, nice: false, clamp: true } : { type, domain, nice: false, zero: false },
    axis: { values: { expr: "values" }, labelExpr: "valueLabels[indexof(values, datum.value)]", domain: false, ticks: false },
  };
}

function frame(colors, height, signals) {
  const params = { from: 0, to: 1, low: 0, high: 1, times: [], timeLabels: [], values: [], valueLabels: [], ...signals };
  return {
    width: 300,
    height,
    padding: { left: 0, right: 2, top: 6, bottom: 0 },
    autosize: { type: "fit", contains: "padding" },
    params: Object.entries(params).map(([name, value]) => ({ name, value })),
    config: {
      background: null,
      font: colors.font,
      aria: false, // the card describes the chart
      view: { stroke: null },
      axis: {
        labelColor: colors.muted,
        labelFontSize: colors.size,
        gridColor: colors.grid,
        domainColor: colors.grid,
        tickColor: colors.grid,
        title: null,
        labelPadding: 6,
        tickSize: 4,
        labelOverlap: true,
        labelLimit: 90,
      },
    },
  };
}

/**
 * Lines of `points`: `{key, time, value, style}`, where a value of null is a gap and the style is a place in
 * `LINE_STYLES`. `thresholds` are `{key, value, label, style}`, where the style is `warning` or `critical`.
 */
function lineChart(colors) {
  const x = { field: "time", ...LABELLED_TIME };
  const y = { field: "value", ...labelledValue("linear") };
  const styles = [...LINE_STYLES.keys(), "warning", "critical"].map(String);
  const range = [...LINE_STYLES.map(([variable]) => colors[variable.slice(2)]), colors.warning, colors.critical];
  const dashes = [...LINE_STYLES.map(([, dash]) => (dash.length ? dash : [1, 0])), [6, 4], [6, 4]];
  const color = { field: "style", type: "nominal", scale: { domain: styles, range }, legend: null };
  const strokeDash = { field: "style", type: "nominal", scale: { domain: styles, range: dashes }, legend: null };
  return {
    ...frame(colors, 180, { hovered: -1, filled: 0 }),
    layer: [
      {
        data: { name: "points", values: [] },
        mark: { type: "area", ...STEPS, color: colors.accent, fillOpacity: { expr: "filled" } },
        encoding: { x, y: { ...y, stack: null } },
      },
      {
        data: { name: "thresholds", values: [] },
        mark: { type: "rule", strokeWidth: 1.5 },
        encoding: { y, color, strokeDash },
      },
      {
        data: { name: "points" },
        mark: { type: "line", ...STEPS, strokeWidth: 2, strokeJoin: "round" },
        encoding: { x, y, color, strokeDash },
      },
      {
        data: { name: "thresholds" },
        mark: {
          type: "text", align: "right", baseline: "bottom", dy: -3, x: { expr: "width" },
          fontSize: colors.size, stroke: colors.card, strokeWidth: 4, // a halo: lines may pass behind it
        },
        encoding: { y, text: { field: "label" }, color },
      },
      {
        data: { values: [{}] },
        mark: { type: "rule", color: colors.muted, strokeWidth: 1, opacity: { expr: "hovered < 0 ? 0 : 1" } },
        encoding: { x: { datum: { expr: "max(from, hovered)" }, ...LABELLED_TIME } },
      },
    ],
  };
}

/** A small line without axes, for a tile. */
function sparkLine(colors) {
  const x = { field: "time", ...TIME, axis: null };
  const y = { field: "value", ...labelledValue("linear"), axis: null };
  return {
    ...frame(colors, 44),
    layer: ["area", "line"].map((type) => ({
      data: type === "area" ? { name: "points", values: [] } : { name: "points" },
      mark: { type, ...STEPS, color: colors.accent, ...(type === "area" ? { opacity: 0.15 } : { strokeWidth: 1.5 }) },
      encoding: { x, y },
    })),
  };
}

/** The pixels of a bar and its texts. */
export const BAR_HEIGHT = 36;

/** A bar for each of `bars`: `{key, place, value, name, label}`, with its texts above it. */
function barChart(colors) {
  const y = { field: "place", type: "ordinal", axis: null, scale: { paddingInner: 0, paddingOuter: 0 } };
  const x = {
    field: "value",
    type: "quantitative",
    axis: null,
    scale: { domain: [{ expr: "low" }, { expr: "high" }], nice: false, zero: false },
  };
  const text = { type: "text", baseline: "bottom", dy: 2, fontSize: colors.size + 1, color: colors.text };
  return {
    ...frame(colors, BAR_HEIGHT),
    data: { name: "bars", values: [] },
    layer: [
      { mark: { type: "bar", height: 6, yOffset: 10, color: colors.grid, x: 0, x2: { expr: "width" } }, encoding: { y } },
      { mark: { type: "bar", height: 6, yOffset: 10, color: colors.accent }, encoding: { y, x } },
      { mark: { ...text, x: 0, align: "left", limit: { expr: "max(40, width - 90)" } }, encoding: { y, text: { field: "name" } } },
      { mark: { ...text, x: { expr: "width" }, align: "right", fontWeight: 600 }, encoding: { y, text: { field: "label" } } },
    ],
  };
}

/** A rectangle for each of `cells`: `{key, start, end, low, high, count}`; `most` is the largest count. */
function heatMap(colors) {
  const y = labelledValue("log");
  return {
    ...frame(colors, 240, { most: 1, low: 1, high: 10 }),
    data: { name: "cells", values: [] },
    mark: { type: "rect", clip: true, stroke: colors.card, strokeWidth: 0.5 },
    encoding: {
      x: { field: "start", ...LABELLED_TIME },
      x2: { field: "end" },
      y: { field: "low", ...y },
      y2: { field: "high" },
      color: {
        field: "count",
        type: "quantitative",
        // With the root, a cell with a quarter of the largest count has the middle color.
        scale: {
          type: "sqrt",
          domain: [0, { expr: "most / 4" }, { expr: "most" }],
          range: [colors["heat-0"], colors["heat-1"], colors["heat-2"]],
          interpolate: "lab",
        },
        legend: null,
      },
    },
  };
}
