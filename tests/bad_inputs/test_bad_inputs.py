"""Every bad input of the tables in this folder is one ValueError that says what was wrong.

A table is a module ``<area>_rows.py`` with a list ``ROWS``; a new one is found by its name.
"""

import importlib
import re
from pathlib import Path

import pytest
from row import Row

TABLES = sorted(path.stem for path in Path(__file__).parent.glob("*_rows.py"))
# Longer texts are dumps, which nobody reads.
LONGEST = 2000


def rows() -> list:
    """The rows of all tables, named by table and row."""
    found = []
    for table in TABLES:
        own: list[Row] = importlib.import_module(table).ROWS
        assert len({row.id for row in own}) == len(own), f"two rows of {table} have one name"
        found += [pytest.param(row, id=f"{table.removesuffix('_rows')}: {row.id}") for row in own]
    return found


@pytest.mark.parametrize("row", rows())
def test_is_refused_with_a_reason(row, tmp_path):
    with pytest.raises(ValueError) as caught:
        row.act(tmp_path)
    text = str(caught.value)
    assert re.search(row.says, text), text
    assert len(text) <= LONGEST
