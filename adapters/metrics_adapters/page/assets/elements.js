/**
 * Creates elements. All text of a server becomes text nodes or attributes, never markup.
 */

const SHOWN_CHARACTERS = 120;
const TITLE_CHARACTERS = 1000;

/** Characters that are invisible or reorder the text around them: control, format, separator, unassigned. */
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}\p{Cn}]/gu;

/**
 * Returns an element with attributes and children.
 *
 * An attribute that is true is set without a value; one that is false, null or undefined is left out.
 */
export function element(tag, attributes = {}, ...children) {
  const created = document.createElement(tag);
  setAttributes(created, attributes);
  created.append(...children.filter((child) => child !== null && child !== undefined));
  return created;
}

/** Returns an element of SVG. */
export function svgElement(tag, attributes = {}, ...children) {
  const created = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAttributes(created, attributes);
  created.append(...children);
  return created;
}

function setAttributes(target, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) target.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) target.setAttribute(name, value);
  }
}

/** Sets a text only if it differs, so that a selection in an unchanged text survives an update. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Returns a text in one line: invisible characters are escaped (`\u202e`), and a long text is cut. */
export function printable(text, limit = SHOWN_CHARACTERS) {
  const whole = typeof text === "string" ? text : String(text ?? "");
  const start = whole.slice(0, limit).replace(/[\ud800-\udbff]$/, "");
  return start.replace(INVISIBLE, escaped) + (whole.length > limit ? "…" : "");
}

function escaped(character) {
  if (character === "\n") return "\\n";
  if (character === "\t") return "\\t";
  const code = character.codePointAt(0).toString(16);
  return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
}

/** Returns a text of the application, isolated from the direction of the text around it. */
export function foreign(text) {
  const shown = printable(text);
  const whole = printable(text, TITLE_CHARACTERS);
  return element("bdi", { title: whole }, shown);
}

/** Returns the name of a series and its tags as elements. Of several that look the same, the later ones have a number. */
export function seriesLabel(series) {
  const tags = Object.entries(series.tags).map(([key, value]) =>
    element("span", { class: "tag" }, foreign(`${key}:${value}`)),
  );
  return element("span", { class: "series-label" }, foreign(series.name), ...tags.slice(0, 6), ...ordinal(series));
}

/** Returns the name of a series and its tags in one line of plain text. */
export function seriesText(series) {
  const tags = Object.entries(series.tags).map(([key, value]) => printable(`${key}:${value}`, 40));
  return [printable(series.name, 60), ...tags.slice(0, 6), ...ordinal(series)].join(" ");
}

function ordinal(series) {
  return series.number > 1 ? [`(${series.number})`] : [];
}

/**
 * Shows rows in a table, and changes only the cells that differ.
 *
 * A column is `{title, number}`; the first column is the header of its row. A cell is `{text, title}`, or
 * `{key, create}` for elements, which are created again only if the key changes.
 */
export function fillTable(table, columns, rows) {
  const shape = JSON.stringify(columns.map((column) => column.title));
  if (table.dataset.shape !== shape) {
    table.dataset.shape = shape;
    const heads = columns.map((column) =>
      element("th", { scope: "col", role: "columnheader", class: column.number ? "number" : null }, printable(column.title)),
    );
    table.setAttribute("role", "table"); // the style sheet displays tables as blocks on a phone
    table.replaceChildren(
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)),
      element("tbody", { role: "rowgroup" }),
    );
  }
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.lastChild.remove();
  while (body.rows.length < rows.length) body.append(emptyRow(columns));
  rows.forEach((cells, row) => cells.forEach((cell, column) => fillCell(body.rows[row].cells[column], cell)));
}

function emptyRow(columns) {
  const cells = columns.map(({ title, number }, index) =>
    index === 0
      ? element("th", { scope: "row", role: "rowheader" })
      : element("td", { role: "cell", class: number ? "number" : null, "data-title": printable(title) }),
  );
  return element("tr", { role: "row" }, ...cells);
}

function fillCell(target, cell) {
  if (cell.create) {
    if (target.dataset.key !== cell.key) {
      target.dataset.key = cell.key;
      target.replaceChildren(cell.create());
    }
    return;
  }
  setText(target, cell.text);
  if (cell.title) target.title = cell.title;
  else target.removeAttribute("title");
}
