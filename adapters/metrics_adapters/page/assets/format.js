/**
 * Numbers with units, ticks of axes, and times, as people read them.
 */

const SCALES = {
  duration: [[1e-3, "µs"], [1, "ms"], [1e3, "s"], [6e5, "min", 6e4], [1.08e7, "h", 3.6e6]],
  bytes: [[1, "B"], [1e3, "kB"], [1e6, "MB"], [1e9, "GB"], [1e12, "TB"]],
  count: [[1, ""], [1e6, "M"], [1e9, "G"], [1e12, "T"]],
};

/** Each unit of the framework: its scale, and its factor to the base of the scale. */
const UNITS = {
  seconds: ["duration", 1e3],
  milliseconds: ["duration", 1],
  microseconds: ["duration", 1e-3],
  bytes: ["bytes", 1],
  kilobytes: ["bytes", 1e3],
  megabytes: ["bytes", 1e6],
  count: ["count", 1],
  "ops/sec": ["count", 1, "/s"],
  operations_per_second: ["count", 1, "/s"],
};

/**
 * Returns a number and its unit as texts: `{number: "1.23", unit: "s"}`.
 *
 * A number has three significant digits, or is an integer with separators.
 */
export function measure(value, unit) {
  if (!isNumber(value)) return { number: "–", unit: "" };
  if (unit === "percent") return { number: threeDigits(value), unit: "%" };
  const [scale, factor, suffix = ""] = UNITS[unit] ?? ["count", 1];
  const base = value * factor;
  const size = Math.abs(Number(base.toPrecision(3)));
  const steps = SCALES[scale];
  let [least, name, divisor = least] = steps[0];
  for (const step of steps) {
    if (size >= step[0]) [least, name, divisor = least] = step;
  }
  if (size === 0) [name, divisor] = scale === "duration" ? ["ms", 1] : [steps[0][1], 1];
  return { number: threeDigits(base / divisor), unit: name + suffix };
}

/** Returns a number with its unit in one text: `1.23 s`, `12 %`, `40/s`. */
export function measurement(value, unit) {
  const { number, unit: name } = measure(value, unit);
  return name === "" ? number : number + (name.startsWith("/") ? name : ` ${name}`);
}

/** Returns all digits of a number and the unit as it was recorded, for a tooltip. */
export function exact(value, unit) {
  return isNumber(value) ? `${value} ${unit}` : "no value";
}

/** Returns whether a value is a number that can be shown. */
export function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function threeDigits(value) {
  const rounded = Math.abs(value) < 100 ? Number(value.toPrecision(3)) : value;
  if (Math.abs(rounded) >= 1e15) return rounded.toExponential(2);
  if (Math.abs(rounded) >= 100 || Number.isInteger(rounded)) return Math.round(rounded).toLocaleString("en");
  return Math.abs(rounded) < 1e-3 ? rounded.toExponential(1) : rounded.toPrecision(3);
}

/** Returns a number of things: `1 process`, `4 processes`. */
export function counted(number, noun, plural = `${noun}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;
}

/** Returns a change in percent with its sign: `+12.3 %`. */
export function change(percent) {
  return isNumber(percent) ? `${percent > 0 ? "+" : ""}${threeDigits(percent)} %` : "–";
}

// -- times -------------------------------------------------------------------------------------------------

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const MINUTES = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
});

/** Returns a time of day, in the time zone of the browser. Times are in milliseconds since 1970. */
export function clock(time) {
  return CLOCK.format(time);
}

/** Returns a date with hours and minutes; any other text is returned unchanged. */
export function day(text) {
  const time = Date.parse(text);
  return Number.isNaN(time) ? String(text ?? "") : DAY.format(time);
}

/** Returns a length of time in its largest unit, as in `3 h` or `45 s`. */
export function age(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 120) return `${whole} s`;
  if (whole < 7200) return `${Math.floor(whole / 60)} min`;
  return whole < 172800 ? `${Math.floor(whole / 3600)} h` : `${Math.floor(whole / 86400)} days`;
}

// -- axes --------------------------------------------------------------------------------------------------

/** The ends of an axis: beyond them, the steps between ticks are not exact, or infinite. */
const LEAST_END = 1e-300;
const MOST_END = 1e300;

/** Returns round numbers from 0 to at least a value, at most six; of a huge value, to the largest end of an axis. */
export function linearTicks(high) {
  const top = high > 0 ? Math.min(Math.max(high, LEAST_END), MOST_END) : 1;
  const step = roundStep(top / 4);
  return Array.from({ length: Math.ceil(top / step - 1e-9) + 1 }, (_, index) => Number((index * step).toPrecision(12)));
}

function roundStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.999);
}

/** Returns round numbers between two ends of a logarithmic axis: decades, or also 2 and 5. Without such ends, none. */
export function logTicks(low, high) {
  if (!(low >= LEAST_END && high >= low && high <= MOST_END)) return [];
  const factors = high / low > 1e3 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let exponent = Math.floor(Math.log10(low)); exponent <= Math.ceil(Math.log10(high)); exponent += 1) {
    for (const factor of factors) {
      const tick = Number((factor * 10 ** exponent).toPrecision(6));
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  const every = Math.ceil(ticks.length / 7);
  return ticks.filter((_, index) => index % every === 0);
}

const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** Returns the label of a tick: a measurement without zeros at its end. */
export function tickLabel(value, unit) {
  return measurement(value, unit).replace(/(\.\d*?)0+(?!\d)/, (_, digits) => (digits === "." ? "" : digits));
}

/** Returns round times of day between two times, and their labels. */
export function timeTicks(from, to, most) {
  const step = 1000 * (TIME_STEPS.find((seconds) => (to - from) / 1000 / seconds <= most) ?? 86400);
  const offset = new Date(to).getTimezoneOffset() * 60000;
  const ticks = [];
  for (let tick = Math.ceil((from - offset) / step) * step + offset; tick <= to; tick += step) ticks.push(tick);
  return { ticks, labels: ticks.map((tick) => (step < 60000 ? CLOCK : MINUTES).format(tick)) };
}
