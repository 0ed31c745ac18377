"""The program that reproduces tables: from an entry to a page, a table and the state of all."""

import os
from pathlib import Path

import pandas as pd
import programs
import pytest
import yaml
from pages import ROOT

from experiments.reproduce import Asked
from experiments.reproduction import compare, entry, overview, page

TABLE = {
    "title": "A made-up table",
    "source": {"paper": "A. Author, 2020", "where": "table 1", "link": "x", "read": "text"},
    "protocol": "p",
    "differs": "d",
    "runs": {
        "digits": {
            "sweep": [
                *("sweep=mine", "method=magnitude", "method.sparsity=0.5,0.9", "measure=quick"),
                *("task.weights=null", "threads=1", "seed=0,1"),
            ],
            "takes": "seconds",
        },
        "matrices": {
            "program": {
                "_target_": "experiments.reproduction.matrices.DecomposedMatrices",
                "kind": {"_target_": "experiments.reproduction.matrices.HadamardMatrix", "n": 8},
                "methods": {"svd": {"_target_": "lowrank.TruncatedSVD", "rank": 2}},
            },
            "takes": "seconds",
        },
        "large": {"sweep": ["sweep=large"], "takes": "days", "needs": "a GPU"},
    },
    "values": {
        "sparsity": {"heading": "share", "ours": "level", "tolerance": 0.01, "why": "w"},
        "mse": {"heading": "mse", "ours": "relative_mse", "tolerance": 0.01, "why": "w"},
        "ratio": {
            **{"heading": "ratio", "ours": "layers_param_ratio", "tolerance": 0.5, "why": "w"},
            "better": "higher",
        },
    },
    "rows": {
        "half": {
            "run": "digits",
            "published": {"sparsity": 0.5, "ratio": 9.0},
            "select": {"method": "magnitude", "level": 0.5},
        },
        "rank 2": {"run": "matrices", "published": {"mse": 0.75}, "select": {"method": "svd"}},
        "huge": {"run": "large", "published": {"mse": 1.0}, "select": {"method": "svd"}},
        "lost": {"published": {"mse": 1.0}, "left": "the data are lost"},
    },
    "orderings": {
        "more zeros": {
            **{"value": "ratio", "run": "digits"},
            "of": {
                "half": {"published": 2.0, "select": {"level": 0.5}},
                "most": {"published": 10.0, "select": {"level": 0.9}},
            },
        }
    },
    "errors": ["Nobody made it."],
}


@pytest.fixture
def folder(tmp_path, monkeypatch, cache):
    (tmp_path / "conf" / "reproduction").mkdir(parents=True)
    (tmp_path / "conf" / "reproduction" / "mine.yaml").write_text(yaml.safe_dump(TABLE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWRANK_CACHE", str(cache))
    return tmp_path


def run(*arguments, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = ("-m", "experiments.command", "reproduce", *arguments)
    return programs.run(*program, cwd=folder, env=environment)


def test_a_table_is_run_compared_and_written_and_goes_on(folder):
    said = run("table=mine", folder=folder)
    assert said.returncode == 0, said.stderr
    assert "4 points: 0 had their record, 4 measured here" in said.stdout
    out = folder / "results" / "reproduced"
    found = pd.read_csv(out / "mine.csv").set_index(["row", "column"])["verdict"]
    assert found.to_dict() == {
        ("half", "sparsity"): compare.REPRODUCED,
        ("half", "ratio"): compare.NOT_REPRODUCED,
        ("rank 2", "mse"): compare.REPRODUCED,
        ("huge", "mse"): compare.CANNOT,
        ("lost", "mse"): compare.CANNOT,
        ("more zeros: half", "ratio"): compare.SAME_ORDER,
        ("more zeros: most", "ratio"): compare.SAME_ORDER,
    }
    text = (out / "mine.md").read_text()
    for shown in ("A. Author, 2020", "it needs a GPU", "the data are lost", "Nobody made it."):
        assert shown in text
    state = (out / "README.md").read_text()
    assert "[mine](mine.md)" in state
    said = run("table=mine", folder=folder)
    assert "4 points: 4 had their record" in said.stdout
    assert "1 of 1: kind" not in said.stdout
    assert (out / "mine.md").read_text() == text


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["table=nothing"], "reproduce: there is no table 'nothing': there are "),
        (["run=some"], "reproduce: run='some' must be one of none, here, all"),
        (["tabel=mine"], "tabel"),
    ],
)
def test_a_wrong_option_is_one_line(folder, arguments, said):
    ended = run(*arguments, folder=folder)
    assert ended.returncode == 1 and said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1 and not ended.stdout


def test_options_are_checked():
    assert Asked(table=None, run="here", out="x").out == "x"
    with pytest.raises(ValueError, match="out='' must be the name of a folder"):
        Asked(table=None, run="here", out="")


def written(folder: Path, frames) -> tuple[entry.Entry, Path]:
    found = entry.load("mine")
    numbers = list(compare.rows(found, frames))
    compared = page.frame(numbers, list(compare.orderings(found, frames)))
    path, csv = page.write(folder, "mine", "text", compared)
    assert path.read_text() == "text"
    return found, csv


def test_the_state_is_that_of_the_written_tables(folder):
    none = {name: None for name in TABLE["runs"]}
    before = overview.counts(entry.load("mine"), folder / "mine.csv")
    found, csv = written(folder, none)
    assert overview.counts(found, csv) == before
    assert before == {compare.NOT_RUN: 4, compare.CANNOT: 2}
    text = overview.markdown({"mine": found}, folder)
    assert "**1 tables, 0 run here**" in text
    ours = pd.DataFrame([{"method": "svd", "point": "a", "seed": 0, "relative_mse": 0.75}])
    found, csv = written(folder, none | {"matrices": ours})
    assert overview.counts(found, csv)[compare.REPRODUCED] == 1
    assert "**1 tables, 1 run here**" in overview.markdown({"mine": found}, folder)


def test_a_page_of_other_figures_than_the_entry_has_is_out_of_date(folder):
    found, csv = written(folder, {name: None for name in TABLE["runs"]})
    changed = TABLE | {"rows": TABLE["rows"] | {"lost": {"published": {"mse": 2}, "left": "x"}}}
    (folder / "conf" / "reproduction" / "mine.yaml").write_text(yaml.safe_dump(changed))
    assert overview.counts(entry.load("mine"), csv) is None
    assert overview.OUTDATED in overview.markdown({"mine": entry.load("mine")}, folder)


def test_the_pages_that_are_kept_are_those_of_the_entries():
    kept = ROOT / "results" / "reproduced"
    for csv in kept.glob("*.csv"):
        assert overview.counts(entry.load(csv.stem), csv) is not None, csv
        assert csv.with_suffix(".md").is_file()
    entries = {name: entry.load(name) for name in entry.names()}
    assert (kept / "README.md").read_text() == overview.markdown(entries, kept)
