// The data of the page: comparisons, their methods, and points, which are one record or the mean of
// the repetitions of a measurement with other seeds.

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

async function readJson(id) {
  return JSON.parse(new TextDecoder().decode(await unpacked(id)));
}

async function readData() {
  const [data, outcomes, chunks] = await Promise.all([readJson("data"), readJson("outcomes"), unpacked("chunks")]);
  return data.parts.map((part, index) => prepared(part, outcomes[index], new Uint8Array(chunks)));
}

function prepared(part, outcomes, chunks) {
  const found = { ...part, outcomes, chunks };
  found.axisOf = new Map(part.axes.map((axis) => [axis.name, axis]));
  found.indexOf = new Map(part.records.map((record, index) => [record.key, index]));
  found.families = [...new Set(part.records.map((record) => record.family))].sort();
  found.looks = looks(part.records, found.families);
  const groups = new Map();
  part.records.forEach((record, index) => {
    if (!groups.has(record.group)) groups.set(record.group, []);
    groups.get(record.group).push(index);
  });
  // By method, and from weak to strong compression.
  const place = ([index]) => part.values.compression_ratio[index];
  const method = ([index]) => part.records[index].method;
  groups.forEach((group) => group.sort((a, b) => part.records[a].seed - part.records[b].seed));
  found.groups = [...groups.values()].sort((a, b) => order(method(a), method(b), false) || place(a) - place(b));
  return found;
}

// Colour by family; marker and dashes by the place of a method in it.
function looks(records, families) {
  const found = new Map();
  families.forEach((family, hue) => {
    const methods = [...new Set(records.filter((one) => one.family === family).map((one) => one.method))];
    methods.sort().forEach((method, index) => found.set(method, {
      family,
      colour: `var(--hue-${hue % 8})`,
      marker: MARKERS[index % MARKERS.length],
      dash: DASHES[(index + Math.floor(index / MARKERS.length)) % DASHES.length],
    }));
  });
  return found;
}

// All points of a comparison; `each` for one per record. Of repetitions with the same numbers, one
// counts, so that they do not show a spread of zero; times, which differ in every run, all count.
function pointsOf(part, each) {
  const sets = each ? part.groups.flat().map((index) => [index]) : part.groups;
  return sets.map((indices) => {
    const record = part.records[indices[0]];
    const own = indices.filter((index) => part.records[index].own);
    return { part, record, indices, own: own.length ? own : indices, seeds: indices.length, id: record.key };
  });
}

function counting(point, name) {
  return /^(speedup|latency)_|^timings\./.test(name) ? point.indices : point.own;
}

function valuesOf(point, name, columns) {
  const column = columns[name];
  return column ? counting(point, name).map((index) => column[index]) : [];
}

// The mean over seeds; null where one of them has no value.
function valueOf(point, name) {
  const values = valuesOf(point, name, point.part.values);
  return values.length && values.every(isNumber) ? mean(values) : null;
}

// The standard deviation over seeds.
function seedSpread(point, name) {
  const values = valuesOf(point, name, point.part.values);
  return values.every(isNumber) ? deviation(values) : null;
}

// The standard error over examples of one network: of several, the root of the mean square.
function exampleError(point, name) {
  const errors = valuesOf(point, name, point.part.errors).filter(isNumber);
  return errors.length ? Math.sqrt(mean(errors.map((error) => error ** 2))) : null;
}

function spreadOf(point, name, bars) {
  if (bars === "none") return null;
  return bars === "seeds" ? seedSpread(point, name) : exampleError(point, name);
}

// The name of a point, in a line of text.
function nameOf(point) {
  const { method, level, seed } = point.record;
  const parts = [method];
  if (level !== null) parts.push(`level ${levelText(level)}`);
  parts.push(point.seeds > 1 ? `${point.seeds} seeds` : `seed ${seed}`);
  return parts.join(", ");
}

// The values of single examples of a record's model; null where the page does not hold them.
function examplesOf(part, index, metric, side) {
  const held = part.outcomes.metrics[metric];
  const number = held?.[side][index];
  return isNumber(number) ? unpackedChunk(part.chunks, held.places[number]) : null;
}

function unpackedChunk(bytes, [offset, length, isBits]) {
  if (isBits) return Uint8Array.from({ length }, (_, i) => (bytes[offset + (i >> 3)] >> (7 - (i & 7))) & 1);
  return new Float32Array(bytes.slice(offset, offset + 4 * length).buffer);
}

function weightsOf(part, index) {
  const place = part.outcomes.sets[part.outcomes.of[index]];
  return place ? unpackedChunk(part.chunks, place) : null;
}
