"""The report program: from a folder of records to figures and tables, or to a clear error."""

import os
import subprocess
import sys
import time
from pathlib import Path

import made_outcomes
import made_pages as pages
import made_records as records
import made_tasks
import pandas as pd
import programs
import pytest
from hydra import compose, initialize
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from omegaconf import OmegaConf, open_dict
from PIL import Image

from experiments.known_tasks import known_tasks
from experiments.report import as_list, report
from lowrank.records import store
from lowrank.reporting import plots

ROOT = Path(__file__).parent.parent
OWN = {"_target_": "made_up_task.MadeUp", "widths": [4, 3], "seed": 0}
TASK = """
from torch import nn

class MadeUp:
    def __init__(self, widths, seed, device):
        assert device == "cpu"
        self.widths = widths

    def model(self):
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(*self.widths))
"""


@pytest.fixture
def run(monkeypatch):
    # The program is used as it is composed, without the start of a process for each test.
    monkeypatch.chdir(ROOT)

    def run(*overrides):
        with initialize(version_base=None, config_path="../conf/report"):
            config = compose("report", list(overrides), return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            with open_dict(config):
                del config["hydra"]
            report(config)

    return run


def test_it_writes_every_figure_and_table_and_prints_the_summary(tmp_path, run, capsys):
    for method in ("svd", "uniform"):
        for step in range(3):
            store.save(records.record(method, step, 0), tmp_path / "runs")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    figures = ("compression", "compression-close-up", "theoretical-speedup", "speedup-b1")
    figures += ("speedup-b64", "layers")
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


def test_the_page_of_the_explorer_is_written_if_asked_for(tmp_path, run, quick, capsys):
    records.write(tmp_path / "runs", 1, ("svd", "uniform"))
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "html=true")
    path = tmp_path / "out" / "explorer.html"
    assert f"  {path}" in capsys.readouterr().out
    (part,) = pages.data(path.read_text(encoding="utf-8"))["parts"]
    assert len(part["records"]) == 10
    # Records that are made up were measured by no sweep.
    assert {one["reason"] for one in part["records"]} == {
        "its config has no norm that a sweep could choose"
    }


def test_figures_for_a_paper_of_some_methods(tmp_path, run, capsys):
    records.write(tmp_path / "runs", 1, ("svd", "uniform", "random"))
    own = ("methods=[svd,uniform]", "paper=4", "font_size=9")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", *own)
    printed = capsys.readouterr().out
    assert "| uniform" in printed and "random" not in printed
    kinds = ("compression", "compression-close-up", "theoretical-speedup", "speedup-b1")
    for kind in kinds:
        start = tmp_path / "out" / f"digits-mlp-{kind}-paper"
        svg = start.with_suffix(".svg").read_text()
        assert 'width="288pt"' in svg and ">uniform</text>" in svg and ">random<" not in svg
        latex = start.with_suffix(".tex").read_text()
        assert f"{{{start.name}.pdf}}" in latex and start.with_suffix(".pdf").exists()
        assert r"\caption{digits, mlp, without recovery: top-1 accuracy" in latex
    layers = pd.read_csv(tmp_path / "out" / "digits-mlp-layers.csv")
    assert set(layers["method"]) == {"svd", "uniform"}


def test_a_method_without_a_record_ends_the_report(tmp_path, run):
    records.write(tmp_path / "runs", 1, ("svd",))
    with pytest.raises(ValueError, match="no record has method 'gptq': there are svd"):
        run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "methods=[svd,gptq]")
    assert not (tmp_path / "out").exists()


def test_each_recovery_has_figures_of_its_own_and_what_is_left_out_is_said(tmp_path, run, capsys):
    for recovery in ("none", "finetune"):
        made_up = records.record("svd", 1, 0, recovery={"name": recovery})
        made_up |= {"recovery": recovery, "dense_recovery": recovery}
        made_up["ratios"]["theoretical_speedup"] = None
        store.save(made_up | {"latency": []}, tmp_path / "runs")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "layers_at=9", "close_up=null")
    figures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert figures == {"digits-mlp-compression.png", "digits-mlp-finetune-compression.png"}
    printed = capsys.readouterr().out
    assert "digits-mlp: no figure against theoretical_speedup" in printed
    assert "no figure of the layers: no method makes the whole model 9× smaller" in printed
    assert "spectra" not in printed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=never-run"], "report: there is no folder results/runs/never-run"),
        (["runs={tmp}", "out={tmp}/out"], "report: there is no record"),
        (["metrc=top1"], "report: there is no option 'metrc': there are experiment, runs"),
        (["+metrc=top1"], "report: there is no option 'metrc': there are experiment, runs"),
        (["html=page"], "report: html='page' must be true or false"),
        (["layers_at=many"], "report: layers_at='many' must be a number above 0"),
        (["methods=[]"], "report: methods=[] must be names of methods, such as [gptq,awq]"),
        (["paper=colum"], "report: paper='colum': width='colum' must be column or page, or inches"),
        (["paper=page", "font_size=3"], "report: paper='page': font_size=3 must be points of"),
        (["font_size=9"], "report: font_size=9 is that of figures for a paper: give paper=column"),
        (["metric=[top1"], "no viable alternative at input '[top1'"),
    ],
)
def test_from_the_command_line_an_error_is_one_that_can_be_read(tmp_path, overrides, message):
    given = [override.format(tmp=tmp_path) for override in overrides]
    before = set(os.listdir(ROOT))
    done = programs.run("-m", "experiments.report", *given, cwd=ROOT)
    made = set(os.listdir(ROOT)) - before
    assert done.returncode == 1
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists() and not made & {"outputs", "multirun", "results"}


def test_a_language_model_is_shown_in_perplexity_against_bits_with_its_norms(tmp_path, run, capsys):
    records.write_texts(tmp_path / "runs", methods=records.NINE)
    settings = ("metric=perplexity", "size=layers_bits_per_weight", "spectra=false", "paper=page")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", *settings)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    figures = {f"stories-llama-{name}.png" for name in ("bits-per-weight", "norms")}
    figures |= {"stories-llama-bits-per-weight-close-up.png", "stories-llama-norms-paper.pdf"}
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
            made_up |= {"config": config, "key": store.key(config), "norm": norm}
            store.save(made_up, tmp_path / "runs")
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


def test_every_option_is_explained():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.report", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    fields = OmegaConf.load(ROOT / "conf" / "report" / "report.yaml")
    explained = [line.split("=")[0].strip() for line in done.stdout.splitlines() if "=" in line]
    assert {str(name) for name in fields} - {"defaults", "hydra"} <= set(explained)


def test_each_task_of_a_folder_is_shown_in_its_own_measure_and_size(tmp_path, run, capsys):
    records.write(tmp_path / "runs", 1, ("svd", "uniform"))
    for step in range(3):
        made_up = records.text_record("gptq", step)
        made_up["ratios"]["coverage"] = 0.87
        store.save(made_up, tmp_path / "runs")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"digits-mlp-compression.png", "stories-llama-bits-per-weight.png"} <= written
    printed = capsys.readouterr().out
    assert "digits, mlp, without recovery: top-1 accuracy" in printed
    assert "stories, llama, without recovery: perplexity" in printed
    assert "87 % of the model's parameters lie in compressed weights" in printed
    # What only one of them has is shown for that one.
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'other'}", "metric=perplexity")
    assert "digits-mlp: left out, for its records hold no perplexity" in capsys.readouterr().out
    assert not [path for path in (tmp_path / "other").iterdir() if "digits" in path.name]


def test_without_a_speedup_there_is_a_dash_and_a_reason(tmp_path, run, capsys):
    for method in ("svd", "uniform"):
        made_up = records.record(method, 1)
        for latency in made_up["latency"] if method == "uniform" else made_up["latency"][1:]:
            latency |= {"speedup": None, "speedup_low": None, "speedup_high": None}
        store.save(made_up, tmp_path / "runs")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}")
    printed = capsys.readouterr().out
    assert "no figure against speedup_b64, for every compressed layer runs as a dense" in printed
    lines = (tmp_path / "out" / "digits-mlp-points.md").read_text().splitlines()
    (header,) = [line.split("|") for line in lines if "speedup, batch 1" in line]
    place = [cell.strip() for cell in header].index("speedup, batch 1")
    cells = {
        row.split("|")[1].strip(): row.split("|")[place].strip() for row in lines if "|" in row
    }
    assert cells["uniform"] == "–" and float(cells["svd"]) > 0
    assert (tmp_path / "out" / "digits-mlp-speedup-b1.png").exists()


@pytest.fixture
def own_task(tmp_path, monkeypatch):
    """A task in a package of the user's own, and the folder of its YAML."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "made_up_task.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path / "package")
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "own.yaml").write_text(OmegaConf.to_yaml(OWN))
    return f"hydra.searchpath=['file://{tmp_path / 'conf'}']"


def test_spectra_are_of_tasks_that_the_users_own_yaml_says(tmp_path, run, capsys, own_task):
    theirs = OWN | {"widths": [16, 3], "device": "cuda:1"}
    store.save(records.record("svd", 1, task=theirs), tmp_path / "runs")
    folders = f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "spectra=true"
    run(*folders)
    assert "no figure of the spectra: a record's task is made anew only" in capsys.readouterr().out
    run(*folders, own_task)
    assert (tmp_path / "out" / "digits-mlp-spectra.png").exists()
    assert "no figure of the spectra" not in capsys.readouterr().out


def digits():
    """The config of the task of the digits, as a sweep puts it on record."""
    return dict(known_tasks())["digits"]


def test_spectra_of_the_digits(tmp_path, run, capsys, monkeypatch):
    monkeypatch.setenv("LOWRANK_CACHE", str(tmp_path / "cache"))
    config = digits()
    config["weights"]["recipe"]["epochs"] = 1
    store.save(records.record("svd", 1, task=config | {"device": "cuda"}), tmp_path / "runs")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "spectra=true")
    assert (tmp_path / "out" / "digits-mlp-spectra.svg").exists(), capsys.readouterr().out


TOUCH = "arguments", {"command": "touch {mark}"}
# Each is a change of a record that is whole: what is where.
HOSTILE = {
    "a builder that is a command": {"builder": "os:system", TOUCH[0]: TOUCH[1]},
    "a task that is a command": {"_target_": "os.system", "command": "touch {mark}"},
    "weights that are a command": {"weights": {"_target_": "os.system", "command": "touch {mark}"}},
    "a source that is a command": {"source": {"_target_": "os.system", "command": "touch {mark}"}},
    "a command in a list": {"mean": [{"_target_": "os.system", "command": "touch {mark}"}]},
    "a partial call": {"_partial_": True},
    "arguments by place": {"_args_": ["touch {mark}"]},
    "a model from a folder": {"_target_": "lowrank.tasks.CausalLM", "pretrained": "{folder}"},
    "weights from an address": {"weights": {"url": "file://{mark}"}},
    "a dataset that is a script": {"source": {"dataset": "{folder}/script.py"}},
    "a text in place of a number": {"validation_size": "${{oc.env:HOME}}"},
    "an interpolation": {"name": "${{oc.env:HOME}}"},
    "training without end": {"weights": {"recipe": {"epochs": 10**9}}},
    "layers that fill the memory": {"arguments": {"widths": [64, 10**8, 10]}},
    "a switch": {"calibration_seed": True},
    "no task": None,
}


def changed(config, changes):
    """A config with some of its fields replaced, those of mappings one by one."""
    for name, value in changes.items():
        mapping = isinstance(value, dict) and "_target_" not in value
        config[name] = changed(dict(config.get(name) or {}), value) if mapping else value
    return config


def filled(value, **names):
    """The same with names in its texts replaced."""
    if isinstance(value, dict):
        return {name: filled(inner, **names) for name, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, **names) for inner in value]
    return value.format(**names) if isinstance(value, str) else value


def short(**config):
    """A record of which few figures can be drawn."""
    made_up = records.record("svd", 1, **config) | {"latency": []}
    made_up["ratios"]["theoretical_speedup"] = None
    return made_up


@pytest.fixture
def quick(monkeypatch):
    """Files of figures are written, and not drawn."""
    monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: Path(file).write_text("drawn"))


def everything(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_cannot_have_anything_run(tmp_path, run, quick, capsys, name):
    (tmp_path / "model").mkdir()
    changes = filled(HOSTILE[name], mark=tmp_path / "mark", folder=tmp_path / "model")
    task = changes and changed(digits(), changes)
    store.save(short(task=task), tmp_path / "runs")
    before = everything(tmp_path)
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "spectra=true", "close_up=null")
    after = everything(tmp_path)
    new = {path for path in after if path not in before} - {tmp_path / "out"}
    assert new and all(path.is_relative_to(tmp_path / "out") for path in new)
    assert {path: after[path] for path in before} == before
    assert "no figure of the spectra: a record's task is made" in capsys.readouterr().out


@pytest.mark.parametrize(
    "task", ["../../up", "/tmp/x", "..", ".hidden", "a" * 200, "-rf", "ж" * 190]
)
def test_names_of_tasks_are_names_of_files_in_one_folder(tmp_path, run, quick, task):
    made_up = short() | {"task": task, "model": "../" * 20 + "m"}
    store.save(made_up, tmp_path / "runs")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'deep' / 'out'}", "close_up=null")
    assert set(os.listdir(tmp_path)) == {"runs", "deep"}
    assert os.listdir(tmp_path / "deep") == ["out"]
    written = list((tmp_path / "deep" / "out").iterdir())
    assert len(written) > 8 and all(path.is_file() for path in written)
    assert not [path.name for path in written if path.name.startswith((".", "-"))]


def test_links_lead_nowhere(tmp_path, run):
    records.write(tmp_path / "runs", 1, ("svd",))
    (tmp_path / "mine").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "runs" / "figures").symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match="is a link to .*mine"):
        run(f"runs={tmp_path / 'runs'}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "digits-mlp-summary.md").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="digits-mlp-summary.md is a link to a file elsewhere"):
        run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}")
    assert (tmp_path / "precious").read_text() == "mine" and not os.listdir(tmp_path / "mine")


def test_two_reports_at_once_leave_whole_files(tmp_path):
    records.write(tmp_path / "runs", 1, ("svd", "uniform"))
    command = [sys.executable, "-m", "experiments.report", f"runs={tmp_path / 'runs'}"]
    command += [f"out={tmp_path / 'out'}"]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(2)]
    seen = 0
    while any(process.poll() is None for process in both):
        for path in (tmp_path / "out").glob("*.png"):
            with Image.open(path) as image:
                image.verify()
            seen += 1
        time.sleep(0.05)
    assert [process.returncode for process in both] == [0, 0] and seen
    left = [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    assert not left
    ends = {".png": b"IEND\xaeB`\x82", ".svg": b"</svg>\n", ".tex": b"\\end{table}\n"}
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes().endswith(ends.get(path.suffix, b"\n"))


def test_a_report_that_fails_keeps_the_files_of_the_last(tmp_path, run, quick, monkeypatch):
    records.write(tmp_path / "runs", 1, ("svd",))
    folders = f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}"
    run(*folders)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        run(*folders, "metric=loss")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_models_too_broken_for_the_first_measure_are_shown_in_the_next(
    tmp_path, run, quick, capsys
):
    for step in range(2):
        made_up = records.text_record("rtn", step)
        del made_up["compressed"]["perplexity"]
        store.save(made_up, tmp_path / "runs")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}")
    assert "stories, llama, without recovery: perplexity (test split, per word)" in (
        capsys.readouterr().out
    )
    # One that has a value is shown, with a dash for the others.
    store.save(records.text_record("gptq", 0), tmp_path / "runs")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}")
    printed = capsys.readouterr().out
    assert "without recovery: perplexity (test split, per token)" in printed
    (row,) = [line for line in printed.splitlines() if line.startswith("| rtn")]
    assert set(row.split("|")[2:-1]) == {row.split("|")[2]} and "–" in row


def write_with_outcomes(folder):
    made_up = records.records(2, ("magnitude", "uniform"))
    return made_outcomes.write(folder, (made_outcomes.images(one) for one in made_up))


@pytest.mark.parametrize("given", ["[magnitude,uniform]", "[all]", "all", "'magnitude,uniform'"])
def test_methods_are_compared_in_words_and_in_a_table(tmp_path, run, capsys, given):
    write_with_outcomes(tmp_path / "runs")
    settings = (f"compare={given}", "close_up=null", "layers_at=null")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", *settings)
    printed = capsys.readouterr().out
    said = (tmp_path / "out" / "digits-mlp-compare.txt").read_text()
    assert said in printed and "magnitude and uniform (for these 2 networks" in said
    table = pd.read_csv(tmp_path / "out" / "digits-mlp-compare.csv")
    assert len(table) == 6 and {"difference_low", "p_holm", "better"} <= set(table)
    assert (tmp_path / "out" / "digits-mlp-compare.tex").exists()


def test_each_method_is_shown_at_its_best_setting_on_validation(tmp_path, run, capsys):
    """The best on the test split is another one, and neither seed alone decides."""
    scores = {"svd": {1: (0.9, 0.5), 2: (0.6, 0.7)}, "uniform": {1: (0.1, 0.3), 2: (0.8, 0.2)}}
    for method, of_rate in scores.items():
        for rate, of_seed in of_rate.items():
            for seed, score in enumerate(of_seed):
                one = records.record(method, 0, seed, recovery={"rate": rate})
                one["compressed"]["top1"] = 1 - score
                store.save(one | {"validation": {"top1": score}}, tmp_path / "runs")
    folders = (f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "close_up=null")
    with pytest.raises(ValueError, match="differ in recovery.rate"):
        run(*folders)
    run(*folders, "tuned=[recovery.rate]")
    assert "recovery.rate that were best on the validation split" in capsys.readouterr().out
    settings = pd.read_csv(tmp_path / "out" / "digits-mlp-settings.csv").set_index("method")
    assert settings["recovery.rate"].to_dict() == {"svd": 1, "uniform": 2}
    assert settings["validation_top1"].to_dict() == pytest.approx({"svd": 0.7, "uniform": 0.5})
    assert list(settings["tried"]) == [2, 2]
    points = pd.read_csv(tmp_path / "out" / "digits-mlp-points.csv").set_index("method")
    assert points["top1"].to_dict() == pytest.approx({"svd": 0.3, "uniform": 0.5})
    with pytest.raises(ValueError, match="no record has a value of 'recovery.speed'"):
        run(*folders, "tuned=[recovery.rate,recovery.speed]")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[magnitude,svd]", "no record is of method 'svd': there are magnitude, uniform"),
        ("[uniform]", "'uniform' is one method alone"),
        ("[]", r"compare=\[\] must be names of methods"),
        ("[3,uniform]", "must be names of methods, such as"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_written(tmp_path, run, given, message):
    write_with_outcomes(tmp_path / "runs")
    with pytest.raises(ValueError, match=message):
        run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", f"compare={given}")
    assert not (tmp_path / "out").exists()


def test_of_several_tasks_those_that_can_be_are_compared(tmp_path, run, capsys):
    write_with_outcomes(tmp_path / "runs")
    records.write_texts(tmp_path / "runs", methods=("rtn", "gptq"))
    settings = ("compare=[magnitude,uniform]", "close_up=null")
    run(f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", *settings)
    printed = capsys.readouterr().out
    assert "stories-llama: not compared: no record is of method 'magnitude'" in printed
    assert (tmp_path / "out" / "digits-mlp-compare.md").exists()


def test_several_tasks_on_one_base_are_shown_together(tmp_path, run, capsys):
    for record in made_tasks.every():
        store.save(record, tmp_path / "runs")
    settings = (f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "across_tasks=true")
    run(*settings, "compare=[shared,lora]")
    printed = capsys.readouterr().out
    assert "shared takes fewer bytes than lora at a quality that cannot be told" in printed
    names = {path.name.removeprefix("mlp-across-tasks") for path in (tmp_path / "out").iterdir()}
    tables = {f"{end}.{kind}" for end in ("", "-each", "-pays") for kind in ("csv", "md", "tex")}
    assert names == tables | {".png", ".svg", "-pays.txt"}
    assert "full" in (tmp_path / "out" / "mlp-across-tasks.md").read_text()
    # Without names each method is set against each other one, and nothing is printed of it.
    run(*settings, "methods=[lora,shared]")
    assert "takes fewer bytes" not in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "mlp-across-tasks-pays.csv")
    assert set(zip(table["method"], table["against"], strict=True)) == {
        ("lora", "shared"),
        ("shared", "lora"),
    }
    assert "full" not in (tmp_path / "out" / "mlp-across-tasks.md").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("html=true", "html=True has no effect with across_tasks=true"),
        ("size=bytes", "size=bytes has no effect with across_tasks=true"),
        ("compare=[lora]", "compare=lora is one method alone"),
        (
            "compare=[lora,vera]",
            "no contender is of method 'vera': there are full, lora, shared",
        ),
        ("metric=macro_f1", "metric='macro_f1' is no mean over test examples"),
        (
            "methods=[svd]",
            "no record is of the methods svd: there are full, lora, shared",
        ),
    ],
)
def test_what_cannot_be_shown_together_is_said_before_anything_is_written(
    tmp_path, run, given, message
):
    for record in made_tasks.every(seeds=(0,)):
        store.save(record, tmp_path / "runs")
    settings = (f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "across_tasks=true")
    with pytest.raises(ValueError, match=message):
        run(*settings, given)
    assert not (tmp_path / "out").exists()


def test_whether_tasks_are_shown_together_is_true_or_false(tmp_path, run):
    with pytest.raises(ValueError, match="across_tasks=2 must be true or false"):
        run(f"runs={tmp_path}", "across_tasks=2")


def test_a_comma_list_of_the_command_line_is_a_list():
    assert as_list("compare=gptq,awq") == 'compare=["gptq", "awq"]'
    assert as_list("compare=svd (full),svd") == 'compare=["svd (full)", "svd"]'
    for same in ("null", "[a,b]", "'a,b'", '"a"', ""):
        assert as_list(f"compare={same}") == f"compare={same}"
    assert as_list("compare") == "compare" and as_list("out=a,b") == "out=a,b"
