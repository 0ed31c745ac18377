"""A search over settings: its study is made of the records that are there."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("optuna")

from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: E402
from hydra.errors import ConfigCompositionException  # noqa: E402

from experiments import search as module  # noqa: E402
from experiments.plan import SweepJob  # noqa: E402
from experiments.search import SettingSearch, space_of  # noqa: E402


def space(*overrides: str) -> dict[str, Any]:
    return space_of(
        OverridesParser.create().parse_overrides(list(overrides)), {"method"}.__contains__
    )


SPACE = ("method.rank=int(interval(1,64))", "norm.damping=tag(log,interval(1e-4,1.0))")


def job(folder: Path):
    def made(values):
        config = {"method": {"rank": values["method.rank"]}, "results": str(folder)}
        return SweepJob(["…"], config | {"norm": {"damping": values["norm.damping"]}})

    return made


def search(folder, higher=True, seed=0) -> SettingSearch:
    made = SettingSearch(space(*SPACE), job(folder), seed)
    made.__dict__["metric"] = SimpleNamespace(name="top1", higher_is_better=higher)
    return made


def quality(settings) -> float:
    """Best at rank 40 and damping 0.01."""
    rank, damping = settings["method"]["rank"], settings["norm"]["damping"]
    return 1 - abs(rank - 40) / 64 - abs(math.log10(damping) + 2) / 10


def measure(one: SweepJob, value=None) -> None:
    own = quality(one.settings) if value is None else value
    record = {"key": one.key, "config": one.settings, "validation": {"top1": own}}
    (one.folder / f"{one.key}.json").write_text(json.dumps(record))


def test_intervals_lists_and_ranges_are_searched_and_the_rest_is_not():
    found = space(*SPACE, "values=bfloat16", "method.bits=2,3", "method.group=range(1,4)")
    assert list(found) == ["method.rank", "norm.damping", "method.bits", "method.group"]
    assert (found["method.rank"].low, found["method.rank"].high) == (1, 64)
    assert found["norm.damping"].log and not found["method.rank"].log
    assert found["method.bits"].choices == ("2", "3")
    assert found["method.group"].choices == ("1", "2", "3")


@pytest.mark.parametrize(
    "overrides, text",
    [
        (["method=svd"], "there is nothing to search"),
        (["method=svd,gptq"], "method=svd,gptq: a search is over fields of one choice"),
        (["seed=0,1", "a=1,2"], "seed=0,1: a search is over fields of one choice and one seed"),
        (["a=interval(3,1)"], r"a=interval\(3,1\)"),
        (["a=tag(log,interval(0,1))"], r"a=tag\(log,interval\(0,1\)\)"),
    ],
)
def test_what_cannot_be_searched(overrides, text):
    with pytest.raises(ConfigCompositionException, match=text):
        space(*overrides)


def test_a_search_is_better_than_its_beginning_and_finds_the_region(tmp_path):
    one = search(tmp_path)
    for _ in range(40):
        for chosen in one.next(one.known(tmp_path), 1):
            measure(chosen)
    known = one.known(tmp_path)
    key, (values, best) = one.best(known)
    assert len(known) == 40 and best > 0.85 and (tmp_path / f"{key}.json").exists()
    values = list(known.values())
    assert sum(q for _, q in values[20:]) > sum(q for _, q in values[:20])


def test_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path):
    for name, kills in (("one", []), ("other", [3, 7])):
        folder = tmp_path / name
        folder.mkdir()
        one = search(folder)
        for number in range(12):
            if number in kills:
                one = search(folder)
            (chosen,) = one.next(one.known(folder), 1)
            measure(chosen)
    keys = [sorted(path.name for path in (tmp_path / n).iterdir()) for n in ("one", "other")]
    assert keys[0] == keys[1]


def test_of_the_records_only_those_of_this_search_count(tmp_path):
    one = search(tmp_path)
    (chosen,) = one.next({}, 1)
    measure(chosen)
    for spoil in ({"method": {"rank": 99}}, {"method": {}}, {"device": "cuda"}, {"norm": 3}):
        other = SweepJob([], chosen.settings | spoil)
        measure(other, 5.0)
    nowhere = one.job({"method.rank": 3, "norm.damping": 0.5})
    record = {"key": nowhere.key, "config": nowhere.settings, "validation": {}}
    (tmp_path / f"{nowhere.key}.json").write_text(json.dumps(record))
    assert list(one.known(tmp_path)) == [chosen.key]
    assert not one.known(tmp_path / "nothing there")


def test_a_record_is_read_once_and_again_when_it_is_another(tmp_path, monkeypatch):
    one, names = search(tmp_path), []
    read = module.read
    monkeypatch.setattr(module, "read", lambda path: names.append(path.stem) or read(path))
    points = [one.job({"method.rank": n, "norm.damping": 0.5}) for n in (1, 2, 3)]
    for count, point in enumerate(points, start=1):
        measure(point, float(count))
        assert len(one.known(tmp_path)) == count
    assert names == [point.key for point in points]
    measure(points[1], 12.5)
    assert [quality for _, quality in one.known(tmp_path).values()] == [1.0, 3.0, 12.5]
    assert names[3:] == [points[1].key]
    (tmp_path / f"{points[0].key}.json").unlink()
    assert len(one.known(tmp_path)) == 2 and len(names) == 4


def test_choices_are_found_again_in_the_types_of_the_config(tmp_path):
    def made(values):
        bits = {"2": 2, "null": None, "mse": "mse"}[values["method.bits"]]
        return SweepJob([], {"method": {"bits": bits}, "results": str(tmp_path)})

    one = SettingSearch(space("method.bits=2,mse"), made)
    one.__dict__["metric"] = SimpleNamespace(name="top1", higher_is_better=True)
    for text in ("2", "mse"):
        measure(one.job({"method.bits": text}), 1.0)
    assert sorted(v["method.bits"] for v, _ in one.known(tmp_path).values()) == ["2", "mse"]


def test_a_point_that_failed_is_not_chosen_for_ever(tmp_path):
    one = search(tmp_path)
    assert len({one.next({}, 1, asked)[0].key for asked in range(5)}) == 5


def test_lower_may_be_better(tmp_path):
    one = search(tmp_path, higher=False)
    for number, value in enumerate((3.0, 1.0, 2.0), start=1):
        measure(one.job({"method.rank": number, "norm.damping": 0.1}), value)
    _, (values, best) = one.best(one.known(tmp_path))
    assert best == 1.0 and values["method.rank"] == 2
