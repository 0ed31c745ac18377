"""The notebooks run from top to bottom on records, and say what to do when there are none."""

import os
from pathlib import Path

import nbformat
import pytest
import records
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "explore_results.ipynb"

# jupyter_client leaves closing its sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")


def execute(runs):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    environment = {**os.environ, "LOWRANK_RUNS": str(runs)}
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": runs.parent}})
    return client.execute(env=environment)


def test_it_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_it_runs_on_records_and_shows_its_figures(tmp_path):
    methods = ("svd", "magnitude", "random", "uniform")
    executed = execute(records.write(tmp_path / "runs", seeds=2, methods=methods))
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert shown.count("image/svg+xml") == 6
    assert shown.count("text/markdown") == 1
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_without_records_it_says_how_to_make_them(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(CellExecutionError, match=r"no records in .*make sweep"):
        execute(tmp_path / "runs")
