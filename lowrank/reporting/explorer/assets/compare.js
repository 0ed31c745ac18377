// The selected point against the pinned one, or against its dense model, by a paired test.

function comparison(view) {
  const { part, sel, vs } = view;
  const points = pointsOf(part, view.each);
  const here = pointAt(points, sel);
  const other = vs === null ? null : pointAt(points, vs);
  if (other === here) return [];
  const tested = part.axes.filter((axis) => axis.group === "quality" && axis.average && (other || axis.dense));
  const axis = tested.find((one) => one.name === state.metric) ?? tested.find((one) => one === view.y) ?? tested[0]
    ?? part.axisOf.get(part.primary) ?? part.axisOf.get(part.y);
  const name = other ? nameOf(other) : "its dense model";
  const select = tested.length > 1 ? h("select", { "aria-label": "Measure that is compared", onchange: (event) => update({ metric: event.target.value }) },
    tested.map((one) => option(one.name, wordsOf(one), one === axis))) : null;
  return [h("section", { class: "compare" },
    h("h3", {}, `Against ${shortened(name, 60)}`, select), rowsOfTest(view, axis, here, other))];
}

// Which records are set against each other: those of the same seed, else the first of each.
function pairs(part, here, other) {
  if (!other) return here.own.map((index) => [index, index]);
  const seed = (index) => part.records[index].seed;
  const same = here.own.flatMap((index) => other.indices.filter((one) => seed(one) === seed(index)).map((one) => [index, one]));
  return same.length ? same : [[here.own[0], other.own[0]]];
}

function rowsOfTest(view, axis, here, other) {
  const { part } = view;
  const found = pairs(part, here, other).map(([a, b]) => ({ a, b, ...tested(part, axis, a, b, other !== null) }));
  const value = (index, side) => (side === "dense" ? part.denses[axis.name]?.[index] ?? axis.dense?.[0] : part.values[axis.name]?.[index]);
  const counts = found.some((one) => one.only);
  const heads = ["seed", "this", other ? "pinned" : "dense", axis.average === "exp" && found.some((one) => one.test) ? "ratio" : "change", "p"];
  const rows = found.map((one) => {
    const values = [value(one.a, "compressed"), value(one.b, other ? "compressed" : "dense")];
    const plain = values.every(isNumber) ? changeText(axis, values[0] - values[1]) : NONE;
    const seeds = [...new Set([one.a, one.b].map((index) => part.records[index].seed))].join(" / ");
    return h("tr", {}, h("th", { scope: "row" }, seeds), values.map((each) => h("td", { class: "number" }, text(axis, each))),
      h("td", { class: "number" }, one.p === undefined ? plain : effectTexts(axis, one)),
      h("td", { class: "number" }, one.p === undefined ? NONE : probability(one.p), one.only ? h("small", {}, one.only.join(" : ")) : null));
  });
  const reasons = [...new Set(found.map((one) => one.reason).filter(Boolean))];
  const done = found.find((one) => one.test);
  const only = counts ? ` Under p: the examples on which only this model ${axis.higher ? "is right" : "is wrong, or differs from the dense one"}, and only the other.` : "";
  const several = found.length > 1 ? " Each seed is a test of its own, all on the same examples." : "";
  const single = " Not corrected for the tests that are looked at here: report compare=… tests all seeds together, and corrects.";
  return [
    h("table", { class: "test" }, h("caption", { class: "hidden" }, "Paired test"), h("thead", {}, h("tr", {}, heads.map((title) => h("th", { scope: "col", class: "number" }, title)))), h("tbody", {}, rows)),
    done ? h("p", { class: "muted" }, `${done.test[0].toUpperCase()}${done.test.slice(1)}, two-sided, on ${done.n.toLocaleString("en-US")} examples. Under the ${axis.average === "exp" ? "ratio" : "change"}: its 95 % interval.${only}${several}${single}`) : null,
    reasons.map((reason) => h("p", { class: "muted" }, `No paired test: ${reason}.`)),
  ];
}

// The change, or the ratio of a measure that is exp of a mean, over its interval.
function effectTexts(axis, { average, effect, low, high }) {
  const number = (value) => (average === "exp" ? `×${value.toFixed(3)}` : changeText(axis, value));
  return [number(effect), h("small", {}, isNumber(low) ? `${number(low)} to ${number(high)}` : NONE)];
}

// A test of a record's model against another's, or against its own dense one; or why there is none.
function tested(part, axis, a, b, isOther) {
  const lacking = part.outcomes.lacking[a] || part.outcomes.lacking[b];
  if (lacking) return { reason: lacking };
  if (!axis.average) return { reason: `${wordsOf(axis)} is no mean over examples` };
  if (part.outcomes.why[axis.name]) return { reason: part.outcomes.why[axis.name] };
  if (part.outcomes.of[a] !== part.outcomes.of[b]) return { reason: "they were measured on different examples" };
  const first = examplesOf(part, a, axis.name, "compressed");
  const second = examplesOf(part, b, axis.name, isOther ? "compressed" : "dense");
  if (!first || !second) return { reason: "this measure of one of them is not among the outcomes on record" };
  if (first.length < 2) return { reason: "one example shows no spread" };
  return pairedTest(first, second, weightsOf(part, a), axis.average);
}
