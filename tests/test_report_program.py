"""The report program: from a folder of records to figures and tables, or to a clear error."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import records
from hydra import compose, initialize
from PIL import Image

from experiments.report import report
from lowrank import plots, results

ROOT = Path(__file__).parent.parent
DIGITS = {
    "_target_": "made_up_task.MadeUp",
    "seed": 0,
}
TASK = """
from torch import nn

class MadeUp:
    def __init__(self, seed):
        pass

    def model(self):
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
"""


@pytest.fixture
def run(monkeypatch):
    # The program is used as it is composed, without the start of a process for each test.
    monkeypatch.chdir(ROOT)

    def run(*overrides):
        with initialize(version_base=None, config_path="../conf/report"):
            report(compose("report", list(overrides)))

    return run


def test_it_writes_every_figure_and_table_and_prints_the_summary(
    tmp_path, run, capsys, monkeypatch
):
    (tmp_path / "made_up_task.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    for method in ("svd", "uniform"):
        for step in range(3):
            results.save(records.record(method, step, 0, task=DIGITS), tmp_path / "runs")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    figures = ("compression", "compression-close-up", "theoretical-speedup", "speedup-b1")
    figures += ("speedup-b64", "layers", "spectra")
    expected = {f"digits-mlp-{name}.{end}" for name in figures for end in ("png", "svg")}
    tables = {
        f"digits-mlp-{name}.{end}" for name in ("summary", "points") for end in ("csv", "md", "tex")
    }
    assert written == expected | tables | {"digits-mlp-layers.csv"}
    layers = pd.read_csv(tmp_path / "out" / "digits-mlp-layers.csv")
    assert len(layers) == 6 * len(records.LAYERS)
    assert {"method", "level", "name", "decomposer", "bits_per_weight"} <= set(layers)
    for path in (tmp_path / "out").glob("*.png"):
        with Image.open(path) as image:
            assert image.width > 700
    printed = capsys.readouterr().out
    assert "| uniform" in printed and "6 records" in printed
    assert all(name in printed for name in written)


def test_each_recovery_has_figures_of_its_own_and_what_is_left_out_is_said(tmp_path, run, capsys):
    for recovery in ("none", "finetune"):
        made_up = records.record("svd", 1, 0, recovery={"name": recovery}) | {"recovery": recovery}
        made_up["ratios"]["theoretical_speedup"] = None
        results.save(made_up | {"latency": []}, tmp_path / "runs")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "layers_at=9", "close_up=null")
    figures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert figures == {"digits-mlp-compression.png", "digits-mlp-finetune-compression.png"}
    printed = capsys.readouterr().out
    assert "digits-mlp: no figure against theoretical_speedup" in printed
    assert "no figure of the layers: no method makes the whole model 9× smaller" in printed
    assert "no figure of the spectra: InstantiationException" in printed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=never-run"], "report: there is no folder results/runs/never-run"),
        (["runs={tmp}", "out={tmp}/out"], "report: there is no record"),
        (["metrc=top1"], "Could not override 'metrc'"),
    ],
)
def test_from_the_command_line_an_error_is_one_that_can_be_read(tmp_path, overrides, message):
    command = [sys.executable, "-m", "experiments.report"]
    command += [override.format(tmp=tmp_path) for override in overrides]
    before = set(os.listdir(ROOT))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    made = set(os.listdir(ROOT)) - before
    assert done.returncode == 1
    assert done.stderr.startswith(message) and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() and not made & {"outputs", "multirun", "results"}


def test_a_language_model_is_shown_in_perplexity_against_bits_with_its_norms(tmp_path, run, capsys):
    records.write_texts(tmp_path / "runs", methods=records.NINE)
    settings = ("metric=perplexity", "size=layers_bits_per_weight", "spectra=false")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", *settings)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    figures = {f"stories-llama-{name}.png" for name in ("bits-per-weight", "norms")}
    figures |= {"stories-llama-bits-per-weight-close-up.png"}
    assert figures | {"stories-llama-norms.csv", "stories-llama-norms.md"} <= written
    assert not [name for name in written if "compression" in name]
    printed = capsys.readouterr().out
    assert "| sparse    | 0.3" in printed and "no: full" in printed
    assert "| gptq" in printed and "**5.085**" in printed


def test_norms_that_cannot_be_set_side_by_side_are_said(tmp_path, run, capsys):
    records.write_texts(tmp_path / "runs", methods=("rtn", "sparsegpt"))
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "metric=perplexity")
    printed = capsys.readouterr().out
    for what in ("table", "figure"):
        assert f"stories-llama: no {what} of the norms: no family was compressed in" in printed
    assert (tmp_path / "out" / "stories-llama-compression.png").exists()


def test_one_method_in_several_norms_is_told_apart_in_every_figure_and_table(
    tmp_path, run, capsys, monkeypatch
):
    for step in range(3):
        for norm in ("identity", "full"):
            made_up = records.text_record("svd", step)
            config = made_up["config"] | {"norm": {"moment": norm}}
            made_up |= {"config": config, "key": results.key(config), "norm": norm}
            results.save(made_up, tmp_path / "runs")
    drawn = []
    layer_figure = plots.layer_figure
    monkeypatch.setattr(
        plots, "layer_figure", lambda *a, **k: drawn.append(layer_figure(*a, **k)) or drawn[-1]
    )
    settings = ("metric=perplexity", "size=layers_bits_per_weight", "layers_at=2")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", *settings, "spectra=false")
    assert "svd (identity)" in (printed := capsys.readouterr().out) and "svd (full)" in printed
    rows = [label.get_text() for label in drawn[0].axes[2].get_yticklabels()]
    assert [row.split(") ")[0] for row in rows] == ["svd (full", "svd (identity"]
