"""docs/which-format.md says what the formats do."""

import re
from pathlib import Path

import matrix
import pytest
from forms import FORMS

import lowrank
from lowrank.export.formats import FORMATS

PAGE = Path(__file__).parents[2] / "docs" / "which-format.md"


def test_the_page_has_the_table_that_the_formats_make():
    assert matrix.table() in PAGE.read_text(), "run python tests/export/matrix.py"


def test_each_format_has_a_column():
    assert {format for format, _ in matrix.COLUMNS.values()} == set(FORMATS)


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_has_its_own_words_on_the_page(format):
    assert re.search(rf"^\| `{format}` \| \w", PAGE.read_text(), re.MULTILINE)


def test_a_form_is_that_of_its_name():
    for form in ("low rank", "entropy coded", "sparse", "codebook"):
        model = matrix.compressed(form)
        layers = [
            m.factorization.describe() for m in model.modules() if hasattr(m, "factorization")
        ]
        assert len(layers) == len(matrix.LAYERS)
        assert all(text.lower().startswith(form.replace(" ", "")[:6]) for text in layers), layers
    assert set(matrix.cells("dense")) == set(FORMS)


def test_a_cell_is_what_an_export_does(tmp_path):
    assert matrix.cell("codebook", "dense") == "multiplied out"
    plan = lowrank.export_model(matrix.compressed("codebook"), "dense", tmp_path)
    assert len(plan.multiplied_out) == len(plan.layers) == 2
