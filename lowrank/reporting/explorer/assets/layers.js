// The layers of a record: bytes against those of the dense layer, bits per weight, error.

function layersOf(part, index) {
  const layers = part.layers[index];
  const names = layers.name ?? [];
  const rows = names.map((name, place) => Object.fromEntries([["place", place], ...Object.entries(layers).map(([field, values]) => [field, values[place]])]));
  const most = Math.max(...rows.map((row) => row.dense_bytes));
  const worst = Math.max(...rows.map((row) => row.relative_error), 1e-12);
  const bytes = { scale: "whole" };
  const columns = [
    { name: "place", title: "layer", value: (row) => row.place, cell: (row) => h("span", { title: `${row.name}: ${row.factorization ?? ""}${row.note ? `; ${row.note}` : ""}` }, shortened(row.name, 30), h("small", {}, row.shape)) },
    { name: "bytes", title: "bytes/dense", numeric: true, value: (row) => row.bytes, cell: (row) => [meter(row.dense_bytes / most, row.bytes / most),
      h("span", {}, compact(row.bytes), h("small", {}, `/${compact(row.dense_bytes)}`))] },
    { name: "bits_per_weight", title: "bits", help: "bits per weight", numeric: true, value: (row) => row.bits_per_weight, cell: (row) => text({ scale: "bits" }, row.bits_per_weight) },
    { name: "relative_error", title: "error", help: "relative error, ‖W − Ŵ‖ / ‖W‖", numeric: true, value: (row) => row.relative_error,
      cell: (row) => [meter(0, row.relative_error / worst), h("span", {}, significant(row.relative_error, 3))] },
  ];
  const own = rows.some((row) => isNumber(row.norm_error) && row.norm_error !== row.relative_error);
  if (own) {
    columns.push({ name: "norm_error", title: "in norm", help: "error in the norm in which the layer was compressed", numeric: true, value: (row) => row.norm_error, cell: (row) => significant(row.norm_error ?? 0, 3) });
  }
  const section = h("section", { class: "layers" });
  const draw = (sort) => {
    replaceTable(section, () => [
      h("h3", {}, `${rows.length} compressed layer${rows.length === 1 ? "" : "s"}`, h("small", {}, ` ${text(bytes, sum(rows, "bytes"))} of ${text(bytes, sum(rows, "dense_bytes"))} bytes`)),
      sortable({ caption: "Layers", columns, rows, sort, onsort: draw }),
    ]);
  };
  draw("place");
  return section;
}

function sum(rows, name) {
  return rows.reduce((total, row) => total + row[name], 0);
}

// A bar of a share, before the outline of another.
function meter(outline, filled) {
  const width = (share) => `${(100 * Math.min(1, share)).toFixed(1)}%`;
  return h("span", { class: "meter", "aria-hidden": "true" },
    outline ? h("i", { class: "outline", style: { width: width(outline) } }) : null, h("i", { style: { width: width(filled) } }));
}
