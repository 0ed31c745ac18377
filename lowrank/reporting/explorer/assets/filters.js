// The controls: axes, error bars, budget, and which methods and norms are shown.

const GROUP_TITLES = { quality: "Quality", size: "Size and cost", time: "Time", validation: "On the validation split" };
const BAR_TITLES = { seeds: "± over seeds", examples: "± over examples", none: "none" };

function option(value, title, selected) {
  return h("option", { value, selected: selected || null }, title);
}

function labelled(title, control, className) {
  return h("label", { class: className ?? "field" }, h("span", {}, title), control);
}

function axisSelect(id, axes, chosen, change, title) {
  const groups = Object.entries(GROUP_TITLES).map(([group, title]) => {
    const held = axes.filter((axis) => axis.group === group);
    const options = held.map((axis) => option(axis.name, wordsOf(axis), axis.name === chosen.name));
    return held.length ? h("optgroup", { label: title }, options) : null;
  });
  return h("select", { id, "aria-label": title, onchange: (event) => change(event.target.value) }, groups);
}

function numberField(id, title, value, change) {
  const read = (event) => change(event.target.value.trim());
  const invalid = wrongRange(value, "") ? "true" : null;
  return labelled(title, h("input", { id, type: "text", inputmode: "decimal", value, placeholder: "any", "aria-invalid": invalid, onchange: read }), "short");
}

function range(name, title, low, high) {
  return h("div", { class: "range", role: "group", "aria-label": title },
    numberField(`${name}-${low}`, "from", state[low], (value) => update({ [low]: value })),
    numberField(`${name}-${high}`, "to", state[high], (value) => update({ [high]: value })),
    h("p", { class: "wrong", role: "alert" }, wrongRange(state[low], state[high])));
}

function toggled(list, names, on) {
  return on ? list.filter((one) => !names.includes(one)) : [...new Set([...list, ...names])];
}

function check(title, checked, change, extra) {
  const box = h("input", { type: "checkbox", checked: checked || null, onchange: (event) => change(event.target.checked) });
  return h("label", { class: "check", title }, box, extra ?? null, h("span", {}, breakable(title)));
}

// A name that goes on in the next line after an underscore, where it is too long for one.
function breakable(name) {
  return name.split(/(?<=_)/).flatMap((part, index) => (index ? [h("wbr"), part] : [part]));
}

function logBox(title, name, axis, on) {
  const change = (event) => update({ [name]: event.target.checked === axis.log ? "" : event.target.checked ? "1" : "0" });
  const box = h("input", { id: name, type: "checkbox", checked: on || null, "aria-label": `${title}, logarithmic`, onchange: change });
  return h("label", { class: "check" }, box, h("span", {}, "logarithmic"));
}

function drawFilters(view) {
  const { part, x, y, by } = view;
  const form = byId("filters");
  const focused = form.contains(document.activeElement) ? placeIn(form) : null;
  const sizes = part.axes.filter((axis) => axis.group === "size" || axis.group === "time");
  const unit = (axis) => `${wordsOf(axis)}${unitOf(axis)}`;
  const bars = possibleBars(part, view.each).map((kind) => option(kind, BAR_TITLES[kind], kind === view.bars));
  const seeds = [option("", "mean over seeds", !view.each), option("1", "every record", view.each)];
  const tasks = page.parts.map((one) => option(one.name, one.name, one === part));
  form.replaceChildren(...[
    page.parts.length > 1 && labelled("Task", h("select", { id: "task", onchange: (event) => choosePart(event.target.value) }, tasks)),
    labelled("Vertical axis", axisSelect("y", part.axes, y, (name) => update({ y: name, ylog: "", low: "", high: "" }))),
    logBox("Vertical axis", "ylog", y, view.logs[1]),
    labelled("Horizontal axis", axisSelect("x", part.axes, x, (name) => update({ x: name, xlog: "" }))),
    logBox("Horizontal axis", "xlog", x, view.logs[0]),
    labelled("Points", h("select", { id: "each", onchange: (event) => update({ each: event.target.value }) }, seeds)),
    labelled("Error bars", h("select", { id: "bars", onchange: (event) => update({ bars: event.target.value }) }, bars)),
    h("fieldset", {}, h("legend", {}, "Budget"),
      axisSelect("by", sizes, by, (name) => update({ by: name, min: "", max: "" }), "Budget in"),
      range("size", "Budget", "min", "max")),
    h("fieldset", {}, h("legend", {}, unit(y)), range("quality", unit(y), "low", "high")),
    part.norms.length > 1 && h("fieldset", {}, h("legend", {}, "Norm"),
      part.norms.map((norm) => check(norm, !state.norms.includes(norm), (on) => update({ norms: toggled(state.norms, [norm], on) })))),
    part.families.map((family) => familyBoxes(part, family)),
    h("button", { type: "button", class: "plain", onclick: reset }, "Reset the view"),
  ].filter(Boolean).flat(Infinity));
  if (focused !== null) focusables(form)[focused]?.focus();
}

function familyBoxes(part, family) {
  const methods = [...part.looks].filter(([, look]) => look.family === family);
  const names = methods.map(([method]) => method);
  const shown = names.filter((name) => !state.off.includes(name));
  const all = check(family, shown.length === names.length, (on) => update({ off: toggled(state.off, names, on) }));
  all.firstElementChild.indeterminate = shown.length > 0 && shown.length < names.length;
  const boxes = methods.map(([method, look]) => check(method, !state.off.includes(method),
    (on) => update({ off: toggled(state.off, [method], on) }), swatch(look)));
  return h("fieldset", { class: "family" }, h("legend", {}, all), boxes);
}

function choosePart(name) {
  const kept = { theme: state.theme };
  readNothing();
  update({ ...kept, part: name });
}

function reset() {
  const kept = { theme: state.theme, part: state.part };
  readNothing();
  update(kept);
}

function readNothing() {
  TEXTS.forEach((name) => { state[name] = ""; });
  LISTS.forEach((name) => { state[name] = []; });
}

function focusables(place) {
  return [...place.querySelectorAll("select, input, button")];
}

// Which of the controls has the focus, since they are made anew.
function placeIn(place) {
  return focusables(place).indexOf(document.activeElement);
}
