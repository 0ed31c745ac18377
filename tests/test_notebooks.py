"""The notebooks run from top to bottom, without a warning, and show what they tell of."""

import math
import os
import queue
import time
from pathlib import Path

import made_records as records
import nbformat
import pytest
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets import Type

from lowrank.records import store

FOLDER = Path(__file__).parent.parent / "notebooks"
EXPLORE = FOLDER / "explore_results.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"
# Of those that read no records: what they show, and what they print.
SHOWN = {
    "adapt_with_lora": ({"text/html": 1}, ["the same outputs, bit for bit: True"]),
    "add_a_method": (
        {"image/svg+xml": 1, "text/markdown": 1},
        ["| Interpolative ", "| TruncatedSVD "],
    ),
    "choose_under_a_budget": ({"text/html": 3}, ["bytes in the file; test top-1"]),
    "every_kind_of_task": ({"image/svg+xml": 12, "text/html": 14}, []),
    "reproduce_a_table": (
        {"image/svg+xml": 1, "text/html": 4},
        ["least 0.0025047, -0.23 %", "  reproduced", "  disputed", "  not reproduced", "320 non-"],
    ),
}

# jupyter_client leaves closing its sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")


class Polled(AsyncZMQSocketChannel):
    """A channel that looks for messages every second.

    A wait for one ends when the socket signals it. A message that a widget sends over the same
    socket meanwhile takes that signal, and the wait would go on (jupyter/nbclient#312).
    """

    async def get_msg(self, timeout=None):
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return await super().get_msg(max(0, min(1, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    raise


class PolledClient(AsyncKernelClient):
    shell_channel_class = Type(Polled)
    iopub_channel_class = Type(Polled)


class PolledManager(AsyncKernelManager):
    client_factory = Type(PolledClient)


def execute(path, where, **environment):
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": where}}
    client = NotebookClient(
        notebook, timeout=300, resources=resources, kernel_manager_class=PolledManager
    )
    return client.execute(env={**os.environ, **environment})


def explored(runs):
    return execute(EXPLORE, runs.parent, LOWRANK_RUNS=str(runs))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


def shown(executed):
    """The kinds of what the cells show, and what they print or show as text."""
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    datas = [output.get("data", {}) for output in outputs]
    printed = [output.get("text", "") for output in outputs]
    printed += [data.get(kind, "") for data in datas for kind in ("text/plain", "text/markdown")]
    return [kind for data in datas for kind in data], "".join(printed)


@pytest.mark.parametrize("name", SHOWN)
def test_it_runs_and_leaves_nothing_behind(name, tmp_path, cache):
    kinds, texts = SHOWN[name]
    there, printed = shown(execute(FOLDER / f"{name}.ipynb", tmp_path, LOWRANK_CACHE=str(cache)))
    assert {kind: there.count(kind) for kind in kinds} == kinds
    assert all(text in printed for text in texts), printed
    assert not list(tmp_path.iterdir())


def test_every_notebook_is_run():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {*SHOWN, EXPLORE.stem}


def test_records_are_explored_with_their_figures(tmp_path):
    methods = ("svd", "magnitude", "random", "uniform")
    kinds, printed = shown(explored(records.write(tmp_path / "runs", seeds=2, methods=methods)))
    assert kinds.count("image/svg+xml") == 7 and kinds.count(WIDGET) == 1
    assert kinds.count("text/markdown") == 1
    assert "Lines go through the means of 2 seeds" in printed


def test_records_of_a_language_model_in_several_norms_that_was_not_timed(tmp_path):
    for step in range(3):
        for norm in ("identity", "full"):
            made_up = records.text_record("gptq", step)
            made_up["ratios"]["coverage"] = 0.2
            config = made_up["config"] | {"norm": {"moment": norm}}
            made_up |= {"config": config, "key": store.key(config), "norm": norm}
            store.save(made_up, tmp_path / "runs")
    kinds, printed = shown(explored(tmp_path / "runs"))
    assert kinds.count("image/svg+xml") == 5 and kinds.count("text/markdown") == 1
    assert "perplexity" in printed and "no speedup was measured" in printed


def test_the_record_of_one_point_that_runs_as_dense(tmp_path):
    made_up = records.record("uniform", 1)
    for latency in made_up["latency"]:
        latency |= {"speedup": None, "speedup_low": None, "speedup_high": None}
    store.save(made_up, tmp_path / "runs")
    kinds, printed = shown(explored(tmp_path / "runs"))
    assert kinds.count("image/svg+xml") == 5 and "no speedup was measured" in printed


def test_without_records_it_says_how_to_make_them(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(CellExecutionError, match=r"no records in .*make sweep"):
        explored(tmp_path / "runs")
