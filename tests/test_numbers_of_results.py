"""Numbers beside methods in tables of the pages in results/ are those of the points there."""

import csv
import re

import pytest
from pages import RESULTS, name

# The measure that a report was asked for, and a number after the name of a method.
METRIC = re.compile(r"\bmetric=(\w+)")
SAID = re.compile(r"`?\b([a-z]\w+)`? \**(\d[\d,]*\.(\d+))")


def points(folder, metric):
    """The values of each method, from the tables of points of a folder."""
    found = {}
    for path in folder.glob("*-points.csv"):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get(metric):
                    found.setdefault(row["method"], []).append(float(row[metric]))
    return found


def said(text, values):
    """The numbers that the tables of a page have of methods, as method, number, decimals."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    numbers = [found for line in lines for found in SAID.findall(line)]
    return [(method, number, len(ends)) for method, number, ends in numbers if method in values]


def stale(text, values):
    """Those that no point of the method rounds to."""
    return [
        f"{method} {number}"
        for method, number, digits in said(text, values)
        if number.replace(",", "") not in {f"{value:.{digits}f}" for value in values[method]}
    ]


WITH_METRIC = [page for page in RESULTS if METRIC.search(page.read_text())]


@pytest.mark.parametrize("page", WITH_METRIC, ids=name)
def test_numbers_in_tables_are_those_of_the_points(page):
    text = page.read_text()
    (metric,) = set(METRIC.findall(text))
    values = points(page.parent, metric)
    assert values and not stale(text, values)


def test_a_stale_number_is_found():
    values = {"svd": [201.0698], "rtn": [5.2128, 8.2580]}
    table = "svd 201.078 in words\n| case | svd 201.070; rtn 8.258 @ 3.31 | other 1.234 |\n"
    assert [method for method, *_ in said(table, values)] == ["svd", "rtn"]
    assert stale(table, values) == []
    assert stale(table.replace("| case | svd 201.070", "| `svd` **201.078**"), values) == [
        "svd 201.078"
    ]
    assert stale("| rtn 8.257 |", values) == ["rtn 8.257"]
