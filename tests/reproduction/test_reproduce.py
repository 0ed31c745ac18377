"""The program that reproduces tables: from an entry to a page, a table and the state of all."""

import os
from pathlib import Path

import pandas as pd
import programs
import pytest
import yaml
from pages import ROOT

from experiments.reproduce import Asked
from experiments.reproduction import compare, entry, kept, orders, overview, page
from experiments.reproduction import verdict as verdicts

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
            "seeds": 2,
        },
        "matrices": {
            "program": {
                "_target_": "experiments.reproduction.matrices.DecomposedMatrices",
                "kind": {"_target_": "experiments.reproduction.matrices.HadamardMatrix", "n": 8},
                "methods": {"svd": {"_target_": "lowrank.TruncatedSVD", "rank": 2}},
            },
            "exact": True,
            "takes": "seconds",
        },
        "large": {"sweep": ["sweep=large"], "takes": "days", "needs": "a GPU"},
    },
    "values": {
        "sparsity": {
            "heading": "share",
            "ours": "level",
            "tolerance": 0.01,
            "why": "w",
            "setting": True,
        },
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
        ("half", "sparsity"): verdicts.AS_SET,
        ("half", "ratio"): verdicts.NOT_REPRODUCED,
        ("rank 2", "mse"): verdicts.REPRODUCED,
        ("huge", "mse"): verdicts.CANNOT,
        ("lost", "mse"): verdicts.CANNOT,
        ("more zeros: half", "ratio"): orders.SAME_ORDER,
        ("more zeros: most", "ratio"): orders.SAME_ORDER,
        ("more zeros: most > half", "ratio"): orders.SAME_ORDER,
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
        (["run=all"], "reproduce: run=all has no effect without a table, which shows the state"),
        (["run=none"], "reproduce: run=none has no effect without a table"),
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
    compared = kept.frame(compare.rows(found, frames), orders.orderings(found, frames))
    path, csv = page.write(folder, "mine", "text", compared)
    assert path.read_text() == "text"
    return found, csv


def change(folder, **changes) -> entry.Entry:
    (folder / "conf" / "reproduction" / "mine.yaml").write_text(yaml.safe_dump(TABLE | changes))
    return entry.load("mine")


def outcomes(**numbers):
    """Records of runs: of points of digits by level, and of the matrices."""
    digits = [
        {"method": "magnitude", "level": level, "point": str(level), "seed": seed}
        | {"layers_param_ratio": ratio, "loss": seed}
        for level, ratios in numbers.items()
        for seed, ratio in enumerate(ratios)
    ]
    digits = [one | {"level": float(one["level"].replace("_", "."))} for one in digits]
    svd = {"method": "svd", "point": "a", "seed": 0, "relative_mse": 0.75}
    none = {name: None for name in TABLE["runs"]}
    return none | {"digits": pd.DataFrame(digits), "matrices": pd.DataFrame([svd])}


RATIOS = {"0_5": [2.0, 2.1], "0_9": [9.9, 10.1]}


def test_the_state_is_that_of_the_written_tables(folder):
    none = {name: None for name in TABLE["runs"]}
    before = overview.state("mine", entry.load("mine"), folder / "mine.csv")
    found, csv = written(folder, none)
    assert overview.state("mine", found, csv) == before
    assert before is not None and before.read == {verdicts.NOT_RUN: 2, verdicts.CANNOT: 2}
    assert before.orders == {verdicts.NOT_RUN: 1}
    assert "**1 tables, 0 run here.**" in overview.markdown({"mine": found}, folder)
    found, csv = written(folder, outcomes(**RATIOS))
    after = overview.state("mine", found, csv)
    assert after is not None and after.orders == {orders.SAME_ORDER: 1}
    assert after.read[verdicts.REPRODUCED] == 1 and after.apart == {verdicts.AS_SET: 1}
    text = overview.markdown({"mine": found}, folder)
    assert "**1 tables, 1 run here.**" in text and "1 are as set" in text


def test_the_verdicts_are_made_again_from_the_numbers(folder):
    """Each number of the entry and of the file that a verdict depends on is read again."""
    frames = outcomes(**RATIOS)
    found, csv = written(folder, frames)
    read = kept.read(found, csv)
    assert read is not None
    assert list(map(repr, read.numbers)) == list(map(repr, compare.rows(found, frames)))
    ratio = TABLE["values"]["ratio"] | {"tolerance": 50}
    assert kept.read(change(folder, values=TABLE["values"] | {"ratio": ratio}), csv) is None
    assert kept.read(change(folder), csv) is not None
    text = csv.read_text()
    for was, now in [("0.75,0.75", "0.75,0.99"), ("not reproduced", "reproduced")]:
        assert was in text
        csv.write_text(text.replace(was, now))
        assert kept.read(change(folder), csv) is None
    csv.write_text(text.replace("same order", "other order"))
    assert kept.read(change(folder), csv) is None


def test_a_page_is_kept_where_its_records_are_gone(folder):
    out = folder / "results" / "reproduced"
    found, csv = written(out, outcomes(**RATIOS))
    before = csv.read_text()
    said = run("table=mine", "run=none", folder=folder)
    assert said.returncode == 0, said.stderr
    assert "mine.md is kept as it is: it has numbers of half, rank 2, " in said.stdout
    assert csv.read_text() == before and (out / "mine.md").read_text() == "text"
    assert " tables, 1 run here.**" in (out / "README.md").read_text()
    fewer = outcomes(**{"0_5": [2.0], "0_9": [9.9, 10.1]})
    compared = kept.frame(compare.rows(found, fewer), orders.orderings(found, fewer))
    assert kept.lost(csv, compared) == ["half", "more zeros: half"]
    more = outcomes(**{"0_5": [2.0, 2.1, 2.2], "0_9": [9.9, 10.1]})
    compared = kept.frame(compare.rows(found, more), orders.orderings(found, more))
    assert kept.lost(csv, compared) == []


@pytest.mark.parametrize("cut", [0, 10, 200, 400, -3])
def test_a_torn_table_is_run_again(folder, cut):
    found, csv = written(folder, outcomes(**RATIOS))
    csv.write_bytes(csv.read_bytes()[:cut])
    assert kept.read(found, csv) is None
    assert "To be run again: mine." in overview.markdown({"mine": found}, folder)


@pytest.mark.parametrize(
    "was, now",
    [
        (",2.0,2.0,2.0,", ",1e300,2.0,2.0,"),
        (",2.0,2.0,2.0,", ",nan,2.0,2.0,"),
        (",2.0,2.0,2.0,", ",-1,2.0,2.0,"),
        ("number,half", "\xff,half"),
        ("9.0,", "many,"),
    ],
)
def test_a_table_of_what_are_no_numbers_is_run_again(folder, was, now):
    found, csv = written(folder, outcomes(**RATIOS))
    text = csv.read_text()
    assert was in text
    csv.write_bytes(text.replace(was, now, 1).encode("latin-1"))
    assert kept.read(found, csv) is None
    assert kept.lost(csv, kept.frame((), ())) == []


def test_figures_from_memory_are_counted_apart(folder):
    rows = TABLE["rows"] | {"rank 2": TABLE["rows"]["rank 2"] | {"from_memory": ["mse"]}}
    change(folder, rows=rows)
    found, csv = written(folder, outcomes(**RATIOS))
    state = overview.state("mine", found, csv)
    assert state is not None and state.memory == {verdicts.REPRODUCED: 1}
    assert verdicts.REPRODUCED not in state.read
    assert "## Figures from memory" in overview.markdown({"mine": found}, folder)


def test_a_table_of_which_seeds_are_missing_is_named(folder):
    found, csv = written(folder, outcomes(**{"0_5": [2.0], "0_9": [9.9]}))
    state = overview.state("mine", found, csv)
    assert state is not None and state.incomplete == ("mine",)
    text = overview.markdown({"mine": found}, folder)
    assert "Incomplete, with seeds missing: mine." in text and "(*incomplete*)" in text


def test_a_page_of_other_figures_than_the_entry_has_is_out_of_date(folder):
    _, csv = written(folder, {name: None for name in TABLE["runs"]})
    found = change(folder, rows=TABLE["rows"] | {"lost": {"published": {"mse": 2}, "left": "x"}})
    assert overview.state("mine", found, csv) is None
    assert "To be run again: mine." in overview.markdown({"mine": found}, folder)
    of = TABLE["orderings"]["more zeros"]
    half = {"half": of["of"]["half"] | {"published": 3.0}}
    assert (
        kept.read(change(folder, orderings={"more zeros": of | {"of": of["of"] | half}}), csv)
        is None
    )


def test_the_pages_that_are_kept_are_those_of_the_entries():
    """Their verdicts are those of their numbers: a stale one does not pass."""
    folder = ROOT / "results" / "reproduced"
    for csv in folder.glob("*.csv"):
        assert overview.state(csv.stem, entry.load(csv.stem), csv) is not None, csv
        assert csv.with_suffix(".md").is_file()
    entries = {name: entry.load(name) for name in entry.names()}
    assert (folder / "README.md").read_text() == overview.markdown(entries, folder)


def test_interrupted_by_hand_it_ends_in_one_line():
    code = (
        "from experiments.composed import composed\n"
        "def program(config): raise KeyboardInterrupt\n"
        "composed(program, 'reproduce')"
    )
    ended = programs.run("-c", code)
    assert ended.returncode == 130
    assert ended.stderr == "reproduce: interrupted; give the same command again\n"
