// Axes: from values to places, and where their ticks are.

// A scale over values, all above 0 if it is logarithmic: `place(value)` lies within `start` and
// `end`, for values within its domain.
function makeScale(values, log, start, end, room) {
  const change = log ? Math.log : (value) => value;
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (!(high > low)) {
    low -= log ? low / 2 : Math.abs(low) / 10 || 1;
    high += log ? high : Math.abs(high) / 10 || 1;
  }
  let from = change(low);
  let to = change(high);
  const margin = 0.04 * (to - from);
  from -= margin;
  to += margin;
  const place = (value) => start + ((change(value) - from) / (to - from)) * (end - start);
  const inside = (value) => isNumber(value) && (!log || value > 0);
  const back = log ? Math.exp : (value) => value;
  const most = Math.max(2, Math.floor(Math.abs(end - start) / room));
  const ticks = log ? logTicks(back(from), back(to), most) : linearTicks(from, to, most);
  return { place, inside, log, ticks, start, end };
}

function linearTicks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const values = [];
  for (let n = Math.ceil(low / step); n * step <= high; n += 1) values.push(n * step);
  return { values, step };
}

// Whole decades where they are many, else 1, 2 and 5 of each, else as on a linear axis.
function logTicks(low, high, most) {
  const decades = Math.log10(high / low);
  if (decades < 0.5) return linearTicks(low, high, most);
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const within = (value) => value >= low * 0.9999 && value <= high * 1.0001;
  const sets = [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 1.5, 2, 3, 5, 7], [1, 2, 3, 5], [1, 2, 5], [1, 3]];
  for (const set of sets) {
    const values = [];
    for (let power = first; power <= last; power += 1) {
      for (const factor of set) values.push(Number(`${factor}e${power}`));
    }
    const held = values.filter(within);
    if (held.length <= most) return { values: held, step: null };
  }
  const every = Math.ceil(decades / most);
  const values = [];
  for (let power = first; power <= last; power += every) values.push(10 ** power);
  return { values: values.filter(within), step: null };
}
