"""The registry of published tables: each entry can be, and a wrong one is refused by name."""

import math
import re
from collections import Counter

import page_commands
import pages
import pytest
import yaml
from hydra.core.hydra_config import HydraConfig

from experiments.parts import make
from experiments.reproduction import entry, runs
from experiments.reproduction.programs import Program
from experiments.yaml_folders import CONF
from lowrank.records.keys import point

NAMES = entry.names()


def one_model(argument: str) -> str:
    """The first of several models, of whose points all that is asked here is alike."""
    return argument.partition(",")[0] if argument.startswith("task.pretrained=") else argument


@pytest.fixture(scope="module")
def planned():
    """The points of a sweep by its arguments: their labels, and the folder of their records."""
    known: dict[tuple[str, ...], list[tuple[str, str, float, str]]] = {}

    def planned(arguments):
        if tuple(arguments) not in known:
            known[tuple(arguments)] = [
                (
                    str(job.folder),
                    job.settings["method_name"],
                    make(job.settings["method"]).level,
                    point(job.settings),
                )
                for job in page_commands.jobs([one_model(text) for text in arguments])
            ]
        return known[tuple(arguments)]

    yield planned
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize("name", NAMES)
def test_its_runs_can_be_and_hold_what_its_rows_select(name, planned):
    found = entry.load(name)
    for key, run in found.runs.items():
        if run.program:
            assert isinstance(runs.program(run), Program)
            continue
        points = planned(run.sweep)
        assert {folder for folder, *_ in points} == {str(runs.folder(name, key, run))}
        seeds = Counter(point for *_, point in points)
        assert set(seeds.values()) == {run.seeds}
    selecting = [row for row in found.rows.values() if row.select]
    members = [(one, m) for one in found.orderings.values() for m in one.of.values()]
    for row, select in [(r, r.select) for r in selecting] + [(o, m.select) for o, m in members]:
        run = found.run_of(row)
        if run.program:
            cases = list(runs.program(run).cases())
            assert any(all(case.get(k) == v for k, v in select.items()) for case in cases), select
        else:
            assert any(fits(select, *labels) for _, *labels, _ in planned(run.sweep)), select


def fits(select, method, level) -> bool:
    right_level = "level" not in select or math.isclose(select["level"], level, rel_tol=1e-9)
    return select.get("method", method) == method and right_level


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_not_surer_than_its_source(name):
    """Whatever is from memory alone says so where a reader sees it."""
    source = entry.load(name).source
    assert source.read in entry.READ and source.paper and source.where
    if source.read in ("memory", "secondary"):
        assert source.note


def written(tmp_path, **changes):
    table = {
        "title": "A table",
        "source": {"paper": "A. Author", "where": "table 1", "link": "x", "read": "text"},
        "protocol": "p",
        "differs": "d",
        "runs": {"digits": {"sweep": ["sweep=mine"], "takes": "seconds"}},
        "values": {
            "error": {"heading": "e", "ours": "1 - top1", "tolerance": 0.1, "why": "w"},
        },
        "rows": {"a": {"published": {"error": 0.5}, "select": {"method": "svd"}}},
    }
    for place, value in changes.items():
        *path, last = place.split("__")
        inner = table
        for part in path:
            inner = inner[part]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(table))
    return file


def test_what_is_written_is_read(tmp_path):
    found = entry.read(written(tmp_path))
    assert found.rows["a"].published == {"error": 0.5}
    assert found.run_of(found.rows["a"]).sweep_name == "mine"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"protocol": None}, ": protocol is missing"),
        (
            {"values__error__tolerance": math.inf},
            "values.error.tolerance: input should be a finite number, and is inf",
        ),
        (
            {"rows__a__published": {"error": math.nan}},
            "rows.a.published.error: input should be a finite number, and is nan",
        ),
        ({"protocl": "p"}, "it has no field 'protocl': there are title, source, protocol"),
        (
            {"values__error__tolerence": 1},
            "values.error has no field 'tolerence': there are heading, ours, tolerance",
        ),
        (
            {"rows__a__selcet": {}, "rows__a__select": None},
            "rows.a has no field 'selcet': there are published, select",
        ),
        ({"values__error__tolerance": 0}, "tolerance=0.0 must be above 0"),
        ({"values__error__better": "more"}, "'lower' or 'higher'"),
        ({"source__read": "hearsay"}, "source.read: input should be 'text'"),
        ({"rows__a__published": {"eror": 1}}, "rows.a.published names 'eror': there are error"),
        ({"rows__a__published": {"error": "0,5"}}, "rows.a.published.error: input should be"),
        ({"rows__a__published": {"error": "0,5"}}, "and is '0,5'"),
        ({"values__error": 3}, "values.error must be a mapping of heading, ours"),
        ({"rows__a__select": None}, "either select, or left"),
        ({"rows__a__left": "too long"}, "either select, or left"),
        ({"rows__a__run": "mnist"}, "rows.a.run names 'mnist': there are digits"),
        ({"rows__a__disputed": {"rank": "x"}}, "disputed names 'rank'"),
        ({"runs__digits__sweep": ["task=digits"]}, "must have experiment=… or sweep=…"),
        ({"runs__digits__program": {"_target_": "x"}}, "either a sweep or a program"),
        ({"runs__more": {"sweep": ["sweep=b"], "takes": "s"}}, "must say which of digits, more"),
        ({"runs__digits__seeds": 0}, "seeds=0 must be at least 1"),
        ({"runs__digits__seeds": 3}, "seeds=3, but its sweep has one: add seed=0,1,2 to it"),
        (
            {"rows__a__select": {"method": ["a"]}},
            "rows.a.select.method: must be one number, text, true, false or null, and is ['a']",
        ),
        ({"rows__a__select": {"level": math.nan}}, "rows.a.select.level: must be one number"),
        ({"runs__digits__exact": True, "runs__digits__seeds": 3}, "what is exact has one seed"),
        ({"rows__a__published": {}}, "a row has figures that are published, or columns"),
        ({"rows__a__beside": ["error"]}, "beside names 'error', of which a figure is published"),
        ({"rows__a__beside": ["rank"]}, "rows.a.beside names 'rank': there are error"),
        ({"rows__a__from_memory": ["rank"]}, "from_memory names 'rank', of which no figure"),
        ({"rows": {}}, "mine.yaml: it has neither rows nor orderings"),
        (
            {"orderings": {"o": {"value": "error", "of": {}}}},
            "an ordering is of two methods at least",
        ),
    ],
    ids=str,
)
def test_a_wrong_entry_is_refused_in_one_line_that_names_file_and_field(tmp_path, changes, said):
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        entry.read(written(tmp_path, **changes))
    text = str(refused.value)
    assert text.startswith(f"{tmp_path / 'mine.yaml'}: ") and "\n" not in text


def test_an_ordering_without_a_direction_is_refused(tmp_path):
    two = {name: {"published": 1.0, "select": {"method": name}} for name in ("a", "b")}
    with pytest.raises(ValueError, match="values.error.better is missing"):
        entry.read(written(tmp_path, orderings={"o": {"value": "error", "of": two}}))


def test_text_that_is_no_yaml_is_refused(tmp_path):
    (tmp_path / "bad.yaml").write_text("title: [")
    with pytest.raises(ValueError, match="bad.yaml"):
        entry.read(tmp_path / "bad.yaml")


def test_a_table_that_is_not_there_is_said():
    with pytest.raises(ValueError, match="there is no table 'nothing': there are .*candes2011"):
        entry.load("nothing")


def test_the_tables_of_the_user_are_found(tmp_path, monkeypatch):
    folder = tmp_path / "conf" / "reproduction"
    folder.mkdir(parents=True)
    written(folder)
    monkeypatch.chdir(tmp_path)
    assert "mine" in entry.names() and entry.load("mine").title == "A table"


def is_part(shown, real) -> bool:
    """Whether all that is shown is so in the real one; of a text its beginning may be shown."""
    if isinstance(shown, dict):
        return all(key in real and is_part(one, real[key]) for key, one in shown.items())
    return real.startswith(shown) if isinstance(shown, str) else shown == real


def test_the_entry_that_the_page_shows_is_part_of_the_real_one(tmp_path):
    page = pages.DOCS / "how-to-reproduce-a-table.md"
    table, orders = pages.blocks(page, "yaml")
    file = tmp_path / "shown.yaml"
    file.write_text(table)
    assert set(entry.read(file).rows) == {"LeNet-300-100", "AlexNet"}
    real = yaml.safe_load((CONF / entry.FOLDER / "han2015_table1.yaml").read_text())
    assert is_part(yaml.safe_load(table), real)
    joined = yaml.safe_load(table) | {"rows": {}} | yaml.safe_load(orders)
    file.write_text(yaml.safe_dump(joined))
    assert len(entry.read(file).orderings) == 1
