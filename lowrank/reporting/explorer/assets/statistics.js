// Means, spreads, the Pareto front, and tests of two models on the same examples.

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

// The logarithm of the gamma function of a number above 0, to 15 digits (Lanczos, SIAM Journal on
// Numerical Analysis B 1, 1964; coefficients for g = 7 by Godfrey, 2001).
const LANCZOS = [
  0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
  12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
];

function logGamma(x) {
  const base = x + 6.5;
  const sum = LANCZOS.reduce((total, factor, k) => total + (k ? factor / (x - 1 + k) : factor), 0);
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(base) - base + Math.log(sum);
}

// The regularised incomplete beta function, by its continued fraction (Abramowitz & Stegun 1964,
// 26.5.8), from the back.
function incompleteBeta(x, a, b) {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const log = logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x);
  const terms = 60 + Math.ceil(4 * Math.sqrt(a + b));
  let fraction = 1;
  for (let m = terms; m >= 1; m -= 1) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    fraction = 1 + even / (1 + odd / fraction);
  }
  const first = (-(a + b) * x) / (a + 1);
  return Math.exp(log) / a / (1 + first / fraction);
}

// The probability of Student's t with that many degrees of freedom beyond ±t (26.7.1).
function twoSided(t, degrees) {
  return incompleteBeta(degrees / (degrees + t * t), degrees / 2, 0.5);
}

// The t beyond which, on both sides, lie 5 %.
function reach95(degrees) {
  let [low, high] = [0, 13];
  for (let step = 0; step < 60; step += 1) {
    const middle = (low + high) / 2;
    if (twoSided(middle, degrees) > 0.05) low = middle;
    else high = middle;
  }
  return high;
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
// same the test is that of McNemar; otherwise the paired t test of the mean difference. Beside that of
// McNemar the interval has the degrees of freedom of the examples that differ, as in
// `lowrank.statistics.differences`: four of them say little of any number of examples.
function pairedTest(first, second, weights, average) {
  if (weights) {
    // Examples without a prediction count as none.
    const [kept, ...rest] = [weights, first, second].map((side) => side.filter((_, index) => weights[index] > 0));
    return testOfPairs(...rest, kept, average);
  }
  return testOfPairs(first, second, null, average);
}

function testOfPairs(first, second, weights, average) {
  const differences = Array.from(first, (value, index) => value - second[index]);
  const { mean: change, error } = weightedMean(differences, weights);
  const isBits = !weights && [first, second].every((side) => side.every((v) => v === 0 || v === 1));
  const found = { n: differences.length, average, change, error };
  let degrees = found.n - 1;
  if (isBits && average === "mean") {
    found.only = [1, -1].map((sign) => differences.filter((value) => value === sign).length);
    found.test = "exact McNemar test";
    found.p = exactMcNemar(...found.only);
    degrees = found.only[0] + found.only[1] - 1;
  } else {
    found.test = "paired t test";
    found.p = error > 0 ? twoSided(change / error, degrees) : change === 0 ? 1 : 0;
  }
  const inUnit = average === "exp" ? Math.exp : (value) => value;
  found.effect = inUnit(change);
  // One example that differs shows no spread.
  const reach = degrees > 0 ? reach95(degrees) * error : 0;
  [found.low, found.high] = degrees === 0 ? [null, null] : [change - reach, change + reach].map(inUnit);
  return found;
}
