// Numbers as texts, by the scale of their measure.

const NONE = "–";
const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const PREFIXES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

// A number with so many significant digits, without an exponent where people can read it so.
function significant(value, digits) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(digits - 1).replace("e+", "e");
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return value.toFixed(Math.min(decimals, 12));
}

function compact(value) {
  const size = Math.abs(value);
  for (const [unit, prefix] of PREFIXES) {
    if (size >= unit) return `${Number((value / unit).toPrecision(3))}${prefix}`;
  }
  return `${Number(value.toPrecision(3))}`;
}

function seconds(value) {
  const [unit, name] = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]].find(([one]) => value >= one) ?? [1e-9, "ns"];
  return `${Number((value / unit).toPrecision(3))} ${name}`;
}

// The name of a measure where its unit stands beside each number.
function wordsOf(axis) {
  return axis.heading.replace(/ *\(%\)$/, "");
}

// A value of a measure for tables and labels.
function text(axis, value) {
  if (!isNumber(value)) return NONE;
  if (axis.scale === "percent") return `${(100 * value).toFixed(2)} %`;
  if (axis.scale === "ratio") return `${value.toFixed(2)}×`;
  if (axis.scale === "bits") return value.toFixed(2);
  if (axis.scale === "whole") return WHOLE.format(value);
  if (axis.scale === "seconds") return seconds(value);
  return significant(value, 4);
}

// A standard deviation or error, in the unit of its measure and without it.
function spreadText(axis, value) {
  if (!isNumber(value)) return "";
  if (axis.scale === "percent") return (100 * value).toFixed(2);
  if (axis.scale === "ratio" || axis.scale === "bits") return value.toFixed(2);
  if (axis.scale === "whole") return compact(value);
  return axis.scale === "seconds" ? seconds(value) : significant(value, 2);
}

// A number and its spread with as many decimals as the two digits of the spread have.
function alike(value, spread) {
  const decimals = Math.min(7, Math.max(0, 1 - Math.floor(Math.log10(spread))));
  return `${value.toFixed(decimals)} ± ${spread.toFixed(decimals)}`;
}

function withSpread(axis, value, spread) {
  const more = isNumber(value) ? spreadText(axis, spread) : "";
  const own = text(axis, value);
  // What rounds to nothing is no spread to speak of, as of a size that hardly depends on the seed.
  if (!/[1-9]/.test(more)) return own;
  if (axis.scale === "seconds") return `${own} ± ${more}`;
  if (axis.scale === "plain" || axis.scale === "log") return alike(value, spread);
  const unit = /( %|×)$/.exec(own)?.[0] ?? "";
  return `${own.slice(0, own.length - unit.length)} ± ${more}${unit}`;
}

// A difference of two values of a measure, with its sign.
function changeText(axis, value) {
  if (!isNumber(value)) return NONE;
  const sign = value > 0 ? "+" : value < 0 ? "−" : "";
  const size = Math.abs(value);
  if (axis.scale === "percent") return `${sign}${(100 * size).toFixed(2)}`;
  if (axis.scale === "whole") return `${sign}${text(axis, size)}`;
  return `${sign}${axis.scale === "ratio" ? size.toFixed(2) : significant(size, 3)}`;
}

// A value at a tick of an axis: short, with the digits that neighbours need to differ.
function tickText(axis, value, step) {
  if (axis.scale === "whole") return compact(value);
  if (axis.scale === "seconds") return seconds(value);
  const factor = axis.scale === "percent" ? 100 : 1;
  const shown = value * factor;
  const decimals = step ? Math.max(0, Math.min(8, -Math.floor(Math.log10(step * factor) + 1e-9))) : 0;
  const number = step ? shown.toFixed(decimals) : `${Number(shown.toPrecision(6))}`;
  return axis.scale === "ratio" ? `${number}×` : number;
}

function unitOf(axis) {
  return axis.scale === "percent" ? ", %" : "";
}

function probability(p) {
  if (!isNumber(p)) return NONE;
  return p < 1e-4 ? p.toExponential(1).replace("e", " e") : p.toFixed(p < 0.01 ? 4 : 3);
}

function levelText(level) {
  return level === null ? NONE : `${Number(level.toPrecision(6))}`;
}

// A name in a place with little room; the whole name is in the title of its element.
function shortened(name, most) {
  const signs = Array.from(name);
  return signs.length <= most ? name : `${signs.slice(0, most - 1).join("")}…`;
}
