"""Made-up entries of published tables, and records to compare them with."""

import pandas as pd

from experiments.reproduction import compare
from experiments.reproduction.entry import Entry, Row, Run, Source, Value


def value(**fields) -> Value:
    given = {"heading": "h", "ours": "x", "tolerance": 1.0, "why": "w", "better": "lower"}
    return Value(**(given | fields))


def entry(rows=None, orderings=None, run=None, **fields) -> Entry:
    """An entry of one column, `x`, and one run, `only`.

    Args:
        run: fields of the run.
        fields: of the column.
    """
    only = Run(**({"takes": "seconds", "sweep": ["sweep=made_up", "seed=0,1,2"]} | (run or {})))
    source = Source(paper="p", where="w", link="l", read="text")
    shared = {"title": "t", "source": source, "protocol": "p", "differs": "d"}
    return Entry(
        **shared,
        runs={"only": only},
        values={"x": value(**fields)},
        rows=rows or {},
        orderings=orderings or {},
    )


def points(**numbers) -> dict:
    """Records of methods by name, at one seed for each number."""
    rows = [
        {"method": method, "point": method, "seed": seed, "x": x, "dense_x": 2.0}
        for method, values in numbers.items()
        for seed, x in enumerate(values)
    ]
    return {"only": pd.DataFrame(rows)}


def verdict(published, numbers, frames=None, run=None, row=None, **fields):
    """What is said of one figure beside these numbers of ours, one for each seed."""
    one = Row(**({"published": {"x": published}, "select": {"method": "a"}} | (row or {})))
    made = entry({"r": one}, run=run, **fields)
    (found,) = compare.rows(made, frames or points(a=numbers))
    return found
