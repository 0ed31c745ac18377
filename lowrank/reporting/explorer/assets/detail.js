// The record that was selected: its measures, its command, its config.

// Sizes that are shown beside the quality; the others are folded.
const FIRST = ["compression_ratio", "layers_bits_per_weight", "bytes", "macs"];

function drawDetail(view) {
  const place = byId("detail");
  const open = new Set([...place.querySelectorAll("details[open]")].map((one) => one.dataset.name));
  replaceTable(place, () => (view.sel === null ? [hint()] : recordParts(view, open).filter(Boolean)));
}

function hint() {
  return h("div", { class: "hint" }, h("h2", {}, "No point selected"),
    h("p", {}, "Select a point in the plot or the table: its measures, layers, config and the command that makes it again are shown here, with a paired test against its dense model."),
    h("p", {}, "To compare two points, pin the first and select the second."),
    h("p", {}, "In the plot, arrow keys move, Enter selects and p pins."));
}

function recordParts(view, open) {
  const { part, sel } = view;
  const record = part.records[sel];
  const look = part.looks.get(record.method);
  const first = part.axes.filter((axis) => axis.group === "quality" || FIRST.includes(axis.name) || axis === view.x);
  const level = record.level === null ? "" : ` · level ${levelText(record.level)}`;
  return [
    h("header", {}, h("h2", { title: record.method }, swatch(look), shortened(record.method, 60)),
      h("p", {}, `${record.family}${level} · norm ${shortened(record.norm, 40)}${record.recovery === "none" ? "" : ` · recovery ${shortened(record.recovery, 40)}`}`)),
    seedButtons(part, sel),
    pinButtons(view),
    ...comparison(view),
    measures(part, sel, first),
    Object.keys(part.errors).length ? h("p", { class: "muted fine" }, "± standard error over examples") : null,
    command(record),
    layersOf(part, sel),
    folded("all measures", open, measures(part, sel, part.axes)),
    ...Object.entries(part.documents[sel]).map(([name, document_]) => folded(name, open, h("pre", { tabindex: 0 }, plainText(document_)))),
    h("p", { class: "key" }, `record ${record.key}`),
  ];
}

function seedButtons(part, sel) {
  const group = part.groups.find((one) => one.includes(sel));
  if (group.length < 2) return null;
  const buttons = group.map((index) => h("button", { type: "button", "aria-pressed": `${index === sel}`,
    onclick: () => update({ sel: part.records[index].key }) }, `${part.records[index].seed}`));
  return h("div", { class: "seeds", role: "group", "aria-label": "Seed" }, h("span", {}, "seed"), buttons);
}

function pinButtons(view) {
  const { part, sel, vs } = view;
  const pin = h("button", { type: "button", onclick: () => update({ vs: part.records[sel].key }) }, "Pin to compare");
  if (vs === null) return h("div", { class: "pin" }, pin);
  const { method, level, seed } = part.records[vs];
  const name = `${shortened(method, 30)}${level === null ? "" : `, level ${levelText(level)}`}, seed ${seed}`;
  return h("div", { class: "pin" }, vs === sel ? null : pin, h("span", { title: method }, `pinned: ${name}`),
    h("button", { type: "button", onclick: () => update({ vs: "" }) }, "Unpin"));
}

// Measures of the dense and the compressed model of one record.
function measures(part, index, axes) {
  const at = (columns, name) => columns[name]?.[index] ?? null;
  const rows = axes.map((axis) => {
    const value = at(part.values, axis.name);
    const held = at(part.denses, axis.name);
    const dense = isNumber(held) ? held : axis.scale === "ratio" || axis.group !== "quality" ? null : axis.dense?.[0] ?? null;
    const change = isNumber(value) && isNumber(dense) && axis.group === "quality" ? changeText(axis, value - dense) : "";
    return isNumber(value) ? h("tr", {},
      h("th", { scope: "row", title: axis.title }, wordsOf(axis)),
      h("td", { class: "number" }, isNumber(dense) ? text(axis, dense) : ""),
      h("td", { class: "number" }, withSpread(axis, value, at(part.errors, axis.name))),
      h("td", { class: "number muted" }, change)) : null;
  });
  const heads = ["", "dense", "compressed", "change"].map((title) => h("th", { scope: "col", class: "number" }, title));
  return h("table", { class: "measures" }, h("caption", { class: "hidden" }, "Measures"), h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows));
}

function command(record) {
  if (!record.command) return h("section", {}, h("h3", {}, "Command"), h("p", { class: "muted" }, `No command measures this point again: ${record.reason}.`));
  const line = h("code", { tabindex: 0 }, record.command);
  const button = h("button", { type: "button", onclick: () => copy(line, button) }, "Copy");
  return h("section", {}, h("h3", {}, "Command that measures it again", button), h("div", { class: "command" }, line),
    h("p", { class: "muted" }, "It loads the model, code and data that it names: read it first if the record is somebody else's."));
}

async function copy(line, button) {
  getSelection().selectAllChildren(line);
  try {
    await navigator.clipboard.writeText(line.textContent);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Press Ctrl+C";
  }
}

function folded(name, open, content) {
  return h("details", { "data-name": name, open: open.has(name) || null }, h("summary", {}, name), content);
}

// Nested fields as indented lines, in the manner of YAML.
function plainText(value, indent = "") {
  if (value === null || typeof value !== "object") return typeof value === "string" ? value : JSON.stringify(value);
  if (Array.isArray(value) && value.every((one) => one === null || typeof one !== "object")) return JSON.stringify(value);
  const rows = Object.entries(value).map(([name, inner]) => {
    const label = Array.isArray(value) ? "-" : `${name}:`;
    const nested = inner !== null && typeof inner === "object" && !(Array.isArray(inner) && inner.every((one) => one === null || typeof one !== "object"));
    const shown = plainText(inner, `${indent}  `);
    return nested && Object.keys(inner).length ? `${indent}${label}\n${shown}` : `${indent}${label} ${nested ? "{}" : shown}`;
  });
  return rows.join("\n");
}
