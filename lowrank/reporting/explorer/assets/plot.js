// The plot: a curve for each method, error bars, the Pareto front and the dense model.

const WIDE = 620;
const GUTTER = 150;
const BAR_WORDS = { seeds: "± standard deviation over seeds", examples: "± standard error over examples" };

function drawPlot(view, points) {
  const figure = byId("plot");
  const had = figure.querySelector("[tabindex='0']");
  const isFocused = had !== null && had === document.activeElement;
  const width = Math.max(280, figure.clientWidth);
  const height = Math.round(Math.min(560, Math.max(300, width * 0.62)));
  const placed = placedPoints(view, points);
  const curves = curvesOf(placed);
  const wide = width >= WIDE;
  const box = { left: 52, right: width - (wide ? GUTTER : 12), top: 34, bottom: height - 46 };
  const missing = points.length - placed.length;
  if (!placed.length) {
    const above = view.logs.some(Boolean) ? ", above 0 where the axis is logarithmic" : "";
    figure.replaceChildren(h("p", { class: "empty" }, points.length
      ? `No record that is shown has both ${view.x.title} and ${view.y.title}${above}.`
      : "No record passes the filters."));
    return;
  }
  const scales = scalesOf(view, placed, box);
  curves.forEach((curve) => {
    curve.places = curve.points.map(({ at }) => [scales.x.place(at[0]), scales.y.place(at[1])]);
  });
  const front = frontOf(view, placed);
  const labels = wide ? curveLabels(curves, denseEnd(view, scales, box), box) : null;
  const chart = s("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, role: "group",
    "aria-label": `${view.y.title} against ${view.x.title}, ${placed.length} points. Arrow keys move between points, Enter selects one, p pins it.`,
  }, grid(view, scales, box), denseLine(view, scales, box), frontLine(front, scales, box),
  curves.map((curve) => curveGroup(curve, view, scales, front)), labels, denseMark(view, scales));
  figure.replaceChildren(...[chart, labels ? null : legend(curves, denseEnd(view, scales, box)), caption(view, missing), wayToRecord(view)].filter(Boolean));
  attach(chart, curves, view);
  if (isFocused) chart.querySelector("[tabindex='0']")?.focus();
}

function placedPoints(view, points) {
  const found = points.map((point) => ({ point, at: [valueOf(point, view.x.name), valueOf(point, view.y.name)] }));
  return found.filter(({ at }) => at.every((value, index) => {
    return isNumber(value) && !(view.logs[index] && value <= 0);
  }));
}

// Each method's points, from weak to strong compression.
function curvesOf(placed) {
  const found = new Map();
  placed.forEach((one) => {
    const { method } = one.point.record;
    if (!found.has(method)) found.set(method, { method, look: one.point.part.looks.get(method), points: [] });
    found.get(method).points.push(one);
  });
  const size = ({ point }) => valueOf(point, "compression_ratio");
  found.forEach((curve) => curve.points.sort((a, b) => size(a) - size(b)));
  return [...found.values()].sort((a, b) => (a.method < b.method ? -1 : 1));
}

function scalesOf(view, placed, box) {
  const [across, up] = [view.x, view.y].map((axis, direction) => placed.flatMap(({ point, at }) => {
    const spread = spreadOf(point, axis.name, view.bars) ?? 0;
    // Downward a bar may come near 0, many decades of a logarithmic axis.
    return [view.logs[direction] ? 0 : -spread, 0, spread].map((away) => at[direction] + away);
  }));
  const dense = [view.x, view.y].map((axis) => axis.dense?.[0]);
  // The dense model is in the picture unless the view is narrowed to a part of it.
  if (isNumber(dense[0]) && !state.min && !state.max) across.push(dense[0]);
  if (isNumber(dense[1]) && !state.low && !state.high) up.push(dense[1]);
  const drawn = (values, log) => values.filter((value) => !log || value > 0);
  const [x, y] = view.logs;
  return {
    x: makeScale(drawn(across, x), x, box.left, box.right, 56),
    y: makeScale(drawn(up, y), y, box.bottom, box.top, 38),
  };
}

function grid(view, scales, box) {
  const { x, y } = scales;
  const rows = y.ticks.values.map((value) => s("g", { class: "tick" },
    s("line", { x1: box.left, x2: box.right, y1: y.place(value), y2: y.place(value) }),
    s("text", { x: box.left - 7, y: y.place(value), dy: "0.35em", "text-anchor": "end" }, tickText(view.y, value, y.ticks.step))));
  const columns = x.ticks.values.map((value) => s("g", { class: "tick" },
    s("line", { x1: x.place(value), x2: x.place(value), y1: box.top, y2: box.bottom }),
    s("text", { x: x.place(value), y: box.bottom + 16, "text-anchor": "middle" }, tickText(view.x, value, x.ticks.step))));
  const better = (axis, [more, less]) => `${unitOf(axis)} ${axis.higher ? more : less}`;
  const room = Math.floor((box.right - 8) / 6.3) - 6;
  return s("g", { class: "grid", "aria-hidden": "true" }, rows, columns,
    s("text", { class: "axis", x: 8, y: 16 }, fitting(view.y, room) + better(view.y, "↑↓")),
    s("text", { class: "axis", x: box.right, y: box.bottom + 36, "text-anchor": "end" }, fitting(view.x, room) + better(view.x, "→←")));
}

// The title of an axis, or its short name where there is no room for it.
function fitting(axis, room) {
  return axis.title.length <= room ? axis.title : shortened(wordsOf(axis), room);
}

// The height of the dense model in the plot, and what it says; null where it is outside.
function denseEnd(view, scales, box) {
  const dense = view.y.dense?.[0];
  if (!isNumber(dense) || !scales.y.inside(dense)) return null;
  const y = scales.y.place(dense);
  return y < box.top - 1 || y > box.bottom + 1 ? null : { y, said: `dense ${text(view.y, dense)}` };
}

function denseLine(view, scales, box) {
  const end = denseEnd(view, scales, box);
  if (!end) return null;
  return s("line", { class: "dense", x1: box.left, x2: box.right, y1: end.y, y2: end.y, "aria-hidden": "true" });
}

function denseMark(view, scales) {
  const at = [view.x.dense?.[0], view.y.dense?.[0]];
  const axes = [scales.x, scales.y];
  if (!at.every((value, index) => isNumber(value) && axes[index].inside(value))) return null;
  const [x, y] = at.map((value, index) => axes[index].place(value));
  if (x < scales.x.start || x > scales.x.end || y > scales.y.start || y < scales.y.end) return null;
  return s("path", { class: "dense-mark", d: MARKERS[3], transform: `translate(${x} ${y})` }, s("title", {}, "the dense model"));
}

// The front of what is shown, the dense model included.
function frontOf(view, placed) {
  const signs = [view.x, view.y].map((axis) => (axis.higher ? 1 : -1));
  const dense = [view.x.dense?.[0], view.y.dense?.[0]];
  const all = placed.map(({ at }) => at);
  if (dense.every(isNumber)) all.push(dense);
  const isOn = paretoFront(all, signs);
  const ids = new Set(placed.filter((_, index) => isOn[index]).map(({ point }) => point.id));
  return { ids, signs, corners: all.filter((_, index) => isOn[index]) };
}

function frontLine({ signs, corners }, scales, box) {
  // The dense model may have a 0, which a logarithmic axis does not.
  const drawn = corners.filter(([x, y]) => scales.x.inside(x) && scales.y.inside(y));
  const places = drawn.map(([x, y]) => [scales.x.place(x), scales.y.place(y)]).sort((a, b) => a[0] - b[0]);
  if (places.length < 2) return null;
  // At each size the best that is had there or at a smaller model.
  const steps = places.slice(1).map(([x, y]) => (signs[0] > 0 ? `V${y}H${x}` : `H${x}V${y}`));
  return [
    s("clipPath", { id: "inside" }, s("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top })),
    s("path", { class: "front", d: `M${places[0].join(" ")}${steps.join("")}`, "clip-path": "url(#inside)", "aria-hidden": "true" }),
  ];
}

function curveGroup({ method, look, points, places }, view, scales, front) {
  const path = places.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
  const marks = points.map(({ point, at }, index) => mark(point, at, places[index], view, scales, front, look));
  return s("g", { class: "curve", "data-method": method },
    view.each ? null : s("path", { class: "line", d: `M${path}`, stroke: look.colour, "stroke-dasharray": look.dash, "aria-hidden": "true" }),
    marks);
}

function mark(point, at, [x, y], view, scales, front, look) {
  const isSelected = view.sel !== null && point.indices.includes(view.sel);
  const isPinned = view.vs !== null && point.indices.includes(view.vs);
  const bars = [0, 1].map((direction) => errorBar(point, at, [x, y], direction, view, scales, look));
  return s("g", { class: `point${isSelected ? " selected" : ""}${isPinned ? " pinned" : ""}`, role: "button", tabindex: -1,
    "data-id": point.id, "aria-label": pointLabel(point, at, view, front.ids.has(point.id)), "aria-pressed": `${isSelected}` },
  bars, s("g", { transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` },
    front.ids.has(point.id) ? s("circle", { class: "ring", r: 7.5 }) : null,
    s("circle", { class: "halo", r: 11 }),
    s("path", { class: "marker", d: look.marker, fill: look.colour })));
}

function errorBar(point, at, [x, y], direction, view, scales, look) {
  const axis = direction ? view.y : view.x;
  const scale = direction ? scales.y : scales.x;
  const spread = spreadOf(point, axis.name, view.bars);
  if (!(spread > 0)) return null;
  const clipped = (value) => Math.min(Math.max(value, Math.min(scale.start, scale.end)), Math.max(scale.start, scale.end));
  const low = scale.inside(at[direction] - spread) ? clipped(scale.place(at[direction] - spread)) : scale.start;
  const high = clipped(scale.place(at[direction] + spread));
  if (Math.abs(high - low) < 2) return null;
  const line = direction ? { x1: x, x2: x, y1: low, y2: high } : { x1: low, x2: high, y1: y, y2: y };
  return s("line", { class: "bar", stroke: look.colour, ...line });
}

function pointLabel(point, at, view, isOnFront) {
  const said = [view.y, view.x].map((axis, index) =>
    `${wordsOf(axis)} ${withSpread(axis, at[1 - index], spreadOf(point, axis.name, view.bars))}`);
  return `${nameOf(point)}: ${said.join(", ")}${isOnFront ? ", on the Pareto front" : ""}`;
}

function caption(view, missing) {
  const kind = view.each ? "Each point is a record." : "Each point is the mean over seeds.";
  const bars = view.bars === "none" ? "" : ` Bars: ${BAR_WORDS[view.bars]}${view.bars === "examples" && !view.each ? " of one seed" : ""}.`;
  const above = view.logs.some(Boolean) ? " (above 0 where it is logarithmic)" : "";
  const left = missing ? ` Not drawn: ${missing} that ${missing > 1 ? "lack" : "lacks"} a value of one of the axes${above}.` : "";
  return h("figcaption", {}, `${kind}${bars} Ringed and dotted: the Pareto front of what is shown. Arrows point to better.${left}`);
}

// Where the record is shown below the table and not beside the plot.
function wayToRecord({ part, sel }) {
  if (sel === null) return null;
  const { method, level } = part.records[sel];
  const show = () => {
    byId("detail").focus({ preventScroll: true });
    byId("detail").scrollIntoView();
  };
  return h("p", { class: "way" }, h("button", { type: "button", onclick: show },
    `Show ${shortened(method, 40)}${level === null ? "" : `, level ${levelText(level)}`}`));
}
