"""The notebooks run from top to bottom on records, and say what to do when there are none."""

import os
from pathlib import Path

import made_records as records
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from lowrank.records import store

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


def shown(executed):
    """The kinds of what the cells show, and what they print."""
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    printed = "".join(output.get("text", "") for output in outputs)
    return [kind for output in outputs for kind in output.get("data", {})], printed


def test_it_runs_on_records_and_shows_its_figures(tmp_path):
    methods = ("svd", "magnitude", "random", "uniform")
    kinds, _ = shown(execute(records.write(tmp_path / "runs", seeds=2, methods=methods)))
    assert kinds.count("image/svg+xml") == 7
    assert kinds.count("text/markdown") == 1


def test_it_runs_on_a_language_model_in_several_norms_that_was_not_timed(tmp_path):
    for step in range(3):
        for norm in ("identity", "full"):
            made_up = records.text_record("gptq", step)
            made_up["ratios"]["coverage"] = 0.2
            config = made_up["config"] | {"norm": {"moment": norm}}
            made_up |= {"config": config, "key": store.key(config), "norm": norm}
            store.save(made_up, tmp_path / "runs")
    kinds, printed = shown(execute(tmp_path / "runs"))
    assert kinds.count("image/svg+xml") == 5 and kinds.count("text/markdown") == 1
    assert "perplexity" in printed and "no speedup was measured" in printed


def test_it_runs_on_one_point_that_runs_as_dense(tmp_path):
    made_up = records.record("uniform", 1)
    for latency in made_up["latency"]:
        latency |= {"speedup": None, "speedup_low": None, "speedup_high": None}
    store.save(made_up, tmp_path / "runs")
    kinds, printed = shown(execute(tmp_path / "runs"))
    assert kinds.count("image/svg+xml") == 5 and "no speedup was measured" in printed


def test_without_records_it_says_how_to_make_them(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(CellExecutionError, match=r"no records in .*make sweep"):
        execute(tmp_path / "runs")
