// What is shown: the state of the page, which is in the hash of its address, so that a link shares it.

const LISTS = ["off", "norms"];
const TEXTS = ["part", "x", "y", "xlog", "ylog", "each", "bars", "by", "min", "max", "low", "high", "sel", "vs", "metric", "sort", "all", "theme"];
const state = Object.fromEntries([...TEXTS.map((name) => [name, ""]), ...LISTS.map((name) => [name, []])]);
const page = { parts: [], render: () => {} };

function readHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  TEXTS.forEach((name) => { state[name] = given.get(name) ?? ""; });
  LISTS.forEach((name) => { state[name] = given.getAll(name); });
}

function hashOf() {
  const held = new URLSearchParams();
  TEXTS.filter((name) => state[name]).forEach((name) => held.set(name, state[name]));
  LISTS.forEach((name) => state[name].forEach((one) => held.append(name, one)));
  return `#${held}`;
}

// Change what is shown. The address is replaced, so that "back" leaves the page.
function update(changes) {
  Object.assign(state, changes);
  history.replaceState(null, "", hashOf());
  page.render();
}

// The state with defaults in place of what is not given or does not exist.
function current() {
  const part = page.parts.find((one) => one.name === state.part) ?? page.parts[0];
  const axis = (name, usual) => part.axisOf.get(name) ?? part.axisOf.get(usual);
  const each = state.each === "1";
  const [x, y] = [axis(state.x, part.x), axis(state.y, part.y)];
  const find = (key) => (part.indexOf.has(key) ? part.indexOf.get(key) : null);
  return {
    part,
    each,
    x,
    y,
    logs: [isLogarithmic(x, state.xlog), isLogarithmic(y, state.ylog)],
    by: axis(state.by, part.x),
    bars: barsOf(part, each),
    sel: find(state.sel),
    vs: find(state.vs),
  };
}

// Whether an axis is logarithmic: as its measure usually is, or as chosen, "1" or "0".
function isLogarithmic(axis, chosen) {
  return chosen === "1" || (axis.log && chosen !== "0");
}

function barsOf(part, each) {
  const possible = possibleBars(part, each);
  return possible.includes(state.bars) ? state.bars : possible[0];
}

function possibleBars(part, each) {
  const repeated = !each && part.groups.some((group) => group.length > 1);
  const kinds = [repeated && "seeds", Object.keys(part.errors).length && "examples", "none"];
  return kinds.filter(Boolean);
}

// The points that pass the filters.
function shownPoints({ part, each, by, y }) {
  const inside = (value, low, high) => {
    if (low !== null && !(value >= low)) return false;
    return high === null || value <= high;
  };
  const size = limits(by, state.min, state.max);
  const quality = limits(y, state.low, state.high);
  const open = (range) => range.every((one) => one === null);
  return pointsOf(part, each).filter((point) => {
    const { method, norm } = point.record;
    if (state.off.includes(method) || state.norms.includes(norm)) return false;
    return [[by, size], [y, quality]].every(([axis, range]) => {
      if (open(range)) return true;
      const value = valueOf(point, axis.name);
      return isNumber(value) && inside(value, ...range);
    });
  });
}

// A range as numbers of a measure: shares are given in percent.
function limits(axis, low, high) {
  const factor = axis.scale === "percent" ? 0.01 : 1;
  return [low, high].map((given) => {
    const value = Number(given);
    return given === "" || !Number.isFinite(value) ? null : value * factor;
  });
}

// What is wrong with the ends of a range; empty for nothing.
function wrongRange(low, high) {
  const wrong = [low, high].find((given) => given !== "" && !Number.isFinite(Number(given)));
  if (wrong !== undefined) return `“${shortened(wrong, 20)}” is no number such as 4 or 1.5, and filters nothing.`;
  return low !== "" && high !== "" && Number(low) > Number(high) ? `Nothing lies from ${low} to ${high}.` : "";
}

function pointAt(points, index) {
  return index === null ? null : points.find((point) => point.indices.includes(index)) ?? null;
}
