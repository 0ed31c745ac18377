"""Of the points that compete the best on the validation split keeps its model, and no other."""

import json
import os
import subprocess
import sys
import time

import made_records
import programs
import pytest

from lowrank.records import best, models, store
from lowrank.records.claims import Claims
from lowrank.records.companions import MODEL, exported_name, model_name

# Saves a record that competes, with its model, and is killed before its change number argv[2] of a
# file that is there.
KILLED = """
import json, os, sys
from pathlib import Path
from lowrank.records import store
from lowrank.records.claims import Claims
folder, left = Path(sys.argv[1]), int(sys.argv[2])
record = json.loads(sys.stdin.read())
def dying(change):
    def changed(*arguments, **options):
        global left
        if str(arguments[0]).endswith(".claim"):
            return change(*arguments, **options)
        left -= 1
        if left < 0:
            os._exit(9)
        return change(*arguments, **options)
    return changed
with Claims(folder).taking(record["key"]) as is_ours:
    (folder / record["model_file"]).write_text("new")
    os.replace, Path.unlink = dying(os.replace), dying(Path.unlink)
    store.save(record, folder)
print("whole")
"""
# Saves its share of many records, each with a model.
MANY = """
import json, sys
from pathlib import Path
from lowrank.records import store
folder = Path(sys.argv[1])
for record in json.loads(sys.stdin.read()):
    (folder / record["model_file"]).write_text("")
    store.save(record, folder)
"""


def competing(top1, seed=0, step=1, digest="0" * 16, metric="top1", **config):
    """A record with a quality on the validation split that names a model."""
    record = made_records.record("svd", step, seed, **config)
    name = model_name(record["key"], digest)
    return record | {"validation": {metric: top1}, "model_file": name, "keep": "best"}


def save(record, folder):
    """Save a record after its model, as a point does."""
    (folder / record["model_file"]).write_text(json.dumps(record["validation"]))
    return store.save(record, folder)


def kept(folder):
    """The names of the models that are there."""
    return {path.name for path in folder.glob("*.safetensors")}


def named(folder):
    """The names of the models that records name."""
    records = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return {record["model_file"] for record in records if "model_file" in record}


def tidy(folder):
    """What a sweep does when it starts."""
    best.clear(folder)
    models.clear(folder)
    Claims(folder).clean()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_the_best_keeps_its_model_in_whatever_order_they_come(order, tmp_path):
    three = [competing(top1, seed) for seed, top1 in enumerate((0.7, 0.9, 0.8))]
    for place in order:
        save(three[place], tmp_path)
    assert kept(tmp_path) == named(tmp_path) == {three[1]["model_file"]}
    for record in three:
        found = json.loads((tmp_path / f"{record['key']}.json").read_text())
        assert found | {"model_file": 0} == json.loads(json.dumps(record)) | {"model_file": 0}
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_less_is_better_where_the_metric_says_so(tmp_path):
    loss = [one for one in made_records.METRICS if one["name"] == "loss"]
    low, high = (
        competing(value, seed, metric="loss") | {"metrics": [*loss, *made_records.METRICS[:1]]}
        for seed, value in enumerate((0.1, 0.2))
    )
    for record in (low, high):
        record |= {"dense": {"params": 1, "bytes": 1}, "compressed": {"params": 1, "bytes": 1}}
        record["standard_errors"] = made_records.NO_ERRORS
        save(record, tmp_path)
    assert kept(tmp_path) == named(tmp_path) == {low["model_file"]}


@pytest.mark.parametrize("turned", [False, True])
def test_of_equals_the_first_by_key_is_kept(turned, tmp_path):
    equal = sorted((competing(0.5, seed) for seed in range(4)), key=lambda one: one["key"])
    for record in reversed(equal) if turned else equal:
        save(record, tmp_path)
    assert kept(tmp_path) == {equal[0]["model_file"]}


def test_one_without_a_value_is_worse_than_any_other(tmp_path):
    undefined, bad = competing(0.5, 0) | {"validation": {}}, competing(0.0, 1)
    save(undefined, tmp_path)
    assert kept(tmp_path) == {undefined["model_file"]}
    save(bad, tmp_path)
    assert kept(tmp_path) == {bad["model_file"]}
    save(undefined, tmp_path)
    assert kept(tmp_path) == {bad["model_file"]}


@pytest.mark.parametrize("name", best.ALIKE)
def test_what_differs_in_more_than_seeds_and_hyperparameters_does_not_compete(name, tmp_path):
    one, seed = competing(0.9, 0), competing(0.8, 1)
    other = competing(0.7, 2) | {name: 7.5 if name == "level" else "another"}
    swept = competing(0.6, 3, method={"rank": 3, "alpha": 0.5})
    for record in (one, seed, other, swept):
        save(record, tmp_path)
    assert kept(tmp_path) == named(tmp_path) == {one["model_file"], other["model_file"]}


@pytest.mark.parametrize("setting, value", [("values", "float16"), ("where", {"include": "0"})])
def test_models_of_another_size_do_not_compete(setting, value, tmp_path):
    one, other = competing(0.9), competing(0.7, 2, **{setting: value})
    save(one, tmp_path)
    save(other, tmp_path)
    assert kept(tmp_path) == {one["model_file"], other["model_file"]}


def test_a_level_written_in_two_ways_is_one(tmp_path):
    records = [competing(top1, seed) for seed, top1 in enumerate((0.8, 0.9, 0.7, 0.6))]
    for record, level in zip(records, (2, 2.0, 2.0, 2), strict=True):
        save(record | {"level": level}, tmp_path)
    assert kept(tmp_path) == {records[1]["model_file"]}


def test_a_model_that_goes_takes_its_export_along(tmp_path):
    better, worse = competing(0.9), competing(0.8, seed=1)
    for record in (worse, better):
        record["exported_folder"] = exported_name(record["model_file"], "dense")
        record |= {"exported_format": "dense", "exported_bytes": 8, "exported_multiplied_out": 1}
        (tmp_path / record["exported_folder"]).mkdir()
        save(record, tmp_path)
    assert kept(tmp_path) == {better["model_file"]}
    assert [path.name for path in tmp_path.glob("*.dense")] == [better["exported_folder"]]
    left = json.loads((tmp_path / f"{worse['key']}.json").read_text())
    assert not [name for name in left if name.startswith("exported")]
    # What a killed process left is cleared, and what is somebody else's is not.
    left_behind = exported_name(better["model_file"].replace("-0", "-1"), "dense")
    for name in (left_behind, "mine-1.dense"):
        (tmp_path / name).mkdir()
    tidy(tmp_path)
    assert not (tmp_path / left_behind).exists() and (tmp_path / "mine-1.dense").exists()
    assert (tmp_path / better["exported_folder"]).is_dir()


def test_a_model_that_is_not_in_the_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="names its model .*, which is not in"):
        store.save(competing(0.9), tmp_path)


def test_a_record_that_does_not_compete_keeps_its_model(tmp_path):
    plain = competing(0.1, 0)
    (tmp_path / plain["model_file"]).touch()
    del plain["keep"]
    store.save(plain, tmp_path)
    better = competing(0.9, 1)
    save(better, tmp_path)
    assert kept(tmp_path) == named(tmp_path) == {plain["model_file"], better["model_file"]}


def test_a_point_measured_again_gives_its_old_model_up(tmp_path):
    path = save(competing(0.9), tmp_path)
    again = competing(0.8, digest="1" * 16)
    assert save(again, tmp_path) == path
    assert kept(tmp_path) == named(tmp_path) == {again["model_file"]}
    save(again, tmp_path)
    assert kept(tmp_path) == {again["model_file"]}
    records_only = {name: value for name, value in again.items() if name != "model_file"}
    store.save(records_only, tmp_path)
    assert not kept(tmp_path)


def test_the_best_that_became_worse_leaves_one_lacking(tmp_path):
    first, second = competing(0.9, 0), competing(0.8, 1)
    save(first, tmp_path)
    save(second, tmp_path)
    assert best.lacking(tmp_path) == frozenset()
    worse = competing(0.7, 0, digest="1" * 16)
    save(worse, tmp_path)
    # Better one that is worse than none.
    assert kept(tmp_path) == named(tmp_path) == {worse["model_file"]}
    assert best.lacking(tmp_path) == {second["key"]}
    save(second, tmp_path)
    assert kept(tmp_path) == named(tmp_path) == {second["model_file"]}
    assert best.lacking(tmp_path) == frozenset()
    (tmp_path / second["model_file"]).unlink()
    assert best.lacking(tmp_path) == {second["key"]}


def test_who_gives_its_model_up_was_not_measured_again(tmp_path):
    """By its time others see whether a point was measured since they began."""
    path = save(competing(0.7, 0), tmp_path)
    os.utime(path, (1e9, 1e9))
    save(competing(0.9, 1), tmp_path)
    assert "model_file" not in json.loads(path.read_text()) and path.stat().st_mtime == 1e9


def killed(record, folder, changes):
    """Save a record in a process that dies before a change; whether it came to that."""
    program = ("-c", KILLED, str(folder), str(changes))
    said = programs.run(*program, input=json.dumps(record))
    assert said.returncode == (0 if said.stdout else 9), said.stderr
    return not said.stdout


@pytest.mark.parametrize("top1", [0.95, 0.5])
def test_a_crash_leaves_the_old_best_or_the_new_and_nothing_that_is_not_cleared(top1, tmp_path):
    changes = 0
    while True:
        folder = tmp_path / str(changes)
        folder.mkdir()
        old, new = competing(0.9, 0), competing(top1, 1)
        again = competing(0.6, 0, digest="1" * 16)
        save(old, folder)
        was_killed = killed(new, folder, changes)
        whole = [name for name in named(folder) if (folder / name).exists()]
        assert {old["model_file"], new["model_file"]} >= set(whole) and whole
        tidy(folder)
        (left,) = kept(folder)
        assert named(folder) == {left} and left in whole
        assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".tmp"}
        if not was_killed:
            break
        # And the point is measured again, as are others.
        save(new, folder)
        save(again, folder)
        assert kept(folder) == named(folder) and len(kept(folder)) == 1
        changes += 1
    assert changes >= 3
    assert left == (new if top1 > 0.9 else old)["model_file"]


def test_a_crash_while_the_best_is_measured_again_leaves_it_whole(tmp_path):
    changes = 0
    while True:
        folder = tmp_path / str(changes)
        folder.mkdir()
        old, new = competing(0.9, 0), competing(0.8, 0, digest="1" * 16)
        save(old, folder)
        was_killed = killed(new, folder, changes)
        tidy(folder)
        (left,) = kept(folder)
        record = json.loads((folder / f"{old['key']}.json").read_text())
        text = (folder / left).read_text()
        assert record["model_file"] == left and (record["validation"]["top1"] == 0.9) == (
            text != "new"
        )
        if not was_killed:
            break
        changes += 1
    assert changes >= 2 and left == new["model_file"]


def test_a_model_that_nobody_began_or_has_a_record_of_stays(tmp_path):
    for name in ("mine.safetensors", model_name("f" * 16, "a" * 16)):
        (tmp_path / name).touch()
    tidy(tmp_path)
    assert len(kept(tmp_path)) == 2


def test_the_model_of_a_point_that_is_being_measured_stays(tmp_path):
    record = competing(0.9)
    bare = {name: value for name, value in record.items() if name != "model_file"}
    store.save(bare, tmp_path)
    (tmp_path / record["model_file"]).touch()
    with Claims(tmp_path).taking(record["key"]):
        models.clear(tmp_path)
        assert kept(tmp_path)
    models.clear(tmp_path)
    assert not kept(tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", 3, None, "0" * 16 + "-1"])
def test_a_record_cannot_name_a_file_of_others(name, tmp_path):
    record = competing(0.9)
    assert MODEL.named(record | {"model_file": name}) is None
    other = competing(0.9, 1)
    assert MODEL.named(record | {"model_file": other["model_file"]}) is None
    assert MODEL.named(record) == record["model_file"]


def test_processes_at_once_leave_one_best(tmp_path):
    rows = [competing((7 * seed % 30) / 100, seed) for seed in range(30)]
    processes = [
        subprocess.Popen([sys.executable, "-c", MANY, tmp_path], stdin=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for start, process in enumerate(processes):
        process.stdin.write(json.dumps(rows[start::3]))
        process.stdin.close()
    deadline = time.time() + 60
    while any(process.poll() is None for process in processes):
        assert time.time() < deadline
        # Whoever looks meanwhile never misses a best one.
        assert best.lacking(tmp_path) == frozenset()
        time.sleep(0.01)
    assert [process.returncode for process in processes] == [0, 0, 0]
    winner = max(rows, key=lambda one: one["validation"]["top1"])
    assert kept(tmp_path) == named(tmp_path) == {winner["model_file"]}
    assert len(list(tmp_path.glob("*.json"))) == 30 and not list(tmp_path.glob("*.claim"))
