// Tables whose columns sort, and the table of the points.

// Browsers take seconds to lay out thousands of rows; so many come at first.
const MOST_ROWS = 200;

// A table; each column has a `title`, its `value` of a row by which it sorts, and its `cell`. Of its
// rows the first `most` are shown.
function sortable({ caption: title, columns, rows, sort, onsort, attributes, most = Infinity }) {
  const [name, down] = sort.startsWith("-") ? [sort.slice(1), true] : [sort, false];
  const chosen = columns.find((column) => column.name === name);
  const ordered = chosen ? rows.slice().sort((a, b) => (down ? -1 : 1) * order(chosen.value(a), chosen.value(b), down)) : rows;
  const heads = columns.map((column) => {
    const direction = column === chosen ? (down ? "descending" : "ascending") : "none";
    const next = column === chosen ? (down ? column.name : `-${column.name}`) : column.numeric ? `-${column.name}` : column.name;
    const button = h("button", { type: "button", title: column.help ?? null, onclick: () => onsort(next) }, column.title,
      h("span", { class: "arrow", "aria-hidden": "true" }, column === chosen ? (down ? "▾" : "▴") : ""));
    return h("th", { scope: "col", class: column.numeric ? "number" : null, "aria-sort": direction }, button);
  });
  const body = ordered.slice(0, most).map((row) => h("tr", attributes?.(row) ?? {}, columns.map((column, index) =>
    h(index ? "td" : "th", { scope: index ? null : "row", class: column.numeric ? "number" : null }, column.cell(row)))));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
    h("table", {}, h("caption", { class: "hidden" }, title), h("thead", {}, h("tr", {}, heads)), h("tbody", {}, body)));
}

// What has no value comes last, whichever the direction.
function order(a, b, down) {
  if (a === null || b === null) return (a === null ? 1 : 0) - (b === null ? 1 : 0) ? ((a === null) === down ? -1 : 1) : 0;
  if (typeof a === "string") return a < b ? -1 : a > b ? 1 : 0;
  return a - b;
}

// The table keeps the focus on the same head or row when it is made anew.
function replaceTable(place, make) {
  const inside = place.contains(document.activeElement);
  const index = inside ? [...place.querySelectorAll("button")].indexOf(document.activeElement) : -1;
  const scrolled = place.querySelector(".scroll");
  const at = scrolled ? [scrolled.scrollLeft, scrolled.scrollTop] : null;
  place.replaceChildren(...make());
  const made = place.querySelector(".scroll");
  if (at && made) [made.scrollLeft, made.scrollTop] = at;
  if (index >= 0) place.querySelectorAll("button")[index]?.focus();
}

function drawPoints(view, points) {
  const { part } = view;
  const first = [view.y, view.x];
  const usual = part.axes.filter((axis) => !first.includes(axis) && axis.group !== "validation");
  const measured = (axis) => ({
    name: axis.name, title: axis.heading, help: axis.title, numeric: true, value: (point) => valueOf(point, axis.name),
    cell: (point) => withSpread(axis, valueOf(point, axis.name), spreadOf(point, axis.name, view.bars)),
  });
  const seeds = (point) => (view.each ? point.record.seed : point.seeds);
  const columns = [
    { name: "method", title: "method", value: (point) => point.record.method, cell: (point) => methodCell(point) },
    { name: "level", title: "level", numeric: true, value: (point) => point.record.level, cell: (point) => levelText(point.record.level) },
    ...first.map(measured),
    { name: "seed", title: view.each ? "seed" : "seeds", numeric: true, value: seeds, cell: (point) => `${seeds(point)}` },
    { name: "norm", title: "norm", value: (point) => point.record.norm, cell: (point) => shortened(point.record.norm, 16) },
    ...usual.map(measured),
  ];
  const sort = columns.some((column) => column.name === state.sort.replace(/^-/, "")) ? state.sort : "method";
  const most = state.all === "1" ? Infinity : MOST_ROWS;
  replaceTable(byId("points"), () => [
    h("h2", { id: "points-title" }, `${points.length} points`, h("small", {}, ` of ${part.records.length} records`)),
    sortable({
      caption: "Points", columns, rows: points, sort, most, onsort: (next) => update({ sort: next }),
      attributes: (point) => ({ "aria-current": view.sel !== null && point.indices.includes(view.sel) ? "true" : null }),
    }),
    points.length > most ? h("button", { type: "button", class: "plain", onclick: () => update({ all: "1" }) },
      `The first ${most} by ${columns.find((column) => column.name === sort.replace(/^-/, "")).title}: show all ${points.length}`) : null,
  ].filter(Boolean));
}

function methodCell(point) {
  const { method } = point.record;
  const name = [swatch(point.part.looks.get(method)), shortened(method, 28)];
  return h("button", { type: "button", class: "row", title: method, "aria-label": `select ${nameOf(point)}`, onclick: () => choose(point, false) }, name);
}
