// Means, spreads, the Pareto front, and tests of two models on the same examples.

const Z95 = 1.959963984540054;

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

// Sample standard deviation; null for one value.
function deviation(values) {
  if (values.length < 2) return null;
  const middle = mean(values);
  const squares = values.reduce((sum, value) => sum + (value - middle) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1));
}

// Whether each of the points is on the front: none is as good in both and better in one.
// `signs` are 1 where more is better, and −1 where less is.
function paretoFront(points, signs) {
  const order = points.map((_, index) => index).sort((a, b) =>
    signs[0] * (points[b][0] - points[a][0]) || signs[1] * (points[b][1] - points[a][1]));
  const isOn = points.map(() => false);
  let best = -Infinity;
  let at = NaN;
  for (const index of order) {
    const [x, y] = points[index];
    const good = signs[1] * y;
    if (good > best) {
      best = good;
      at = x;
      isOn[index] = true;
    } else if (good === best && x === at) {
      isOn[index] = true;
    }
  }
  return isOn;
}

// The probability of a standard normal variable beyond ±z. Below 3 by the series of erf, above by
// the continued fraction of erfc (Abramowitz & Stegun 1964, 7.1.6 and 7.1.14).
function twoSided(z) {
  const x = Math.abs(z) / Math.SQRT2;
  if (x < 3) {
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum) && n < 500; n += 1) {
      term *= (2 * x * x) / (2 * n + 1);
      sum += term;
    }
    return Math.max(0, 1 - (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum);
  }
  let fraction = x;
  for (let n = 80; n >= 1; n -= 1) fraction = x + n / 2 / fraction;
  return Math.exp(-x * x) / (Math.sqrt(Math.PI) * fraction);
}

// The exact McNemar test: of n = b + c examples on which exactly one model is right, b and c would
// each be binomial (n, ½) if both models were as good. Two-sided (McNemar, Psychometrika 12, 1947).
function exactMcNemar(b, c) {
  const n = b + c;
  const least = Math.min(b, c);
  if (2 * least >= n) return 1;
  // The largest of the summed terms is the last, by which all are scaled.
  let log = 0;
  for (let k = 1; k <= least; k += 1) log += Math.log((n - k + 1) / k);
  let sum = 1;
  let term = 1;
  for (let k = least; k >= 1; k -= 1) {
    term *= k / (n - k + 1);
    sum += term;
  }
  return Math.min(1, 2 * Math.exp(log - n * Math.LN2) * sum);
}

// The weighted mean of values, and its standard error over examples that could have been others.
// A ratio of means where weights differ (Cochran, Sampling Techniques, 1977, 6.4).
function weightedMean(values, weights) {
  const n = values.length;
  let total = 0;
  let sum = 0;
  for (let i = 0; i < n; i += 1) {
    const weight = weights ? weights[i] : 1;
    total += weight;
    sum += weight * values[i];
  }
  const middle = sum / total;
  let squares = 0;
  for (let i = 0; i < n; i += 1) {
    squares += ((weights ? weights[i] : 1) * (values[i] - middle)) ** 2;
  }
  return { mean: middle, error: Math.sqrt((n / (n - 1)) * squares) / total };
}

// A test of the values of two models on the same examples. `average` is "mean", or "exp" where the
// measure is exp of the mean, so that its ratio is tested. Where all values are 0 or 1 and weigh the
// same the test is that of McNemar; otherwise the mean difference is taken as normal.
function pairedTest(first, second, weights, average) {
  const differences = Array.from(first, (value, index) => value - second[index]);
  const { mean: change, error } = weightedMean(differences, weights);
  const isBits = !weights && [first, second].every((side) => side.every((v) => v === 0 || v === 1));
  const found = { n: differences.length, average, change, error };
  const inUnit = average === "exp" ? Math.exp : (value) => value;
  found.effect = inUnit(change);
  found.low = inUnit(change - Z95 * error);
  found.high = inUnit(change + Z95 * error);
  if (isBits && average === "mean") {
    found.only = [1, -1].map((sign) => differences.filter((value) => value === sign).length);
    found.test = "exact McNemar test";
    found.p = exactMcNemar(...found.only);
  } else {
    found.test = "paired test of the mean difference, taken as normal";
    found.p = error > 0 ? twoSided(change / error) : change === 0 ? 1 : 0;
  }
  return found;
}
