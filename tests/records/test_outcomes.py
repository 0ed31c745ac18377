"""Outcomes of examples: their file, and that no record names outcomes that are not its own."""

import copy
import json
import os
from dataclasses import replace
from pathlib import Path

import hostile
import made_outcomes
import made_records
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lowrank.files import tensor_files
from lowrank.files.atomic import ABANDONED
from lowrank.records import models, outcomes, store
from lowrank.records.claims import Claims
from lowrank.records.companions import outcomes_name
from lowrank.records.outcomes import Outcomes
from lowrank.records.parts import BREAKDOWN, CONTINUATIONS, Breakdown, Continuations


def saved_until(change, record, folder):
    """Save a record in a process that dies before its change number `change` of a file that is
    there; whether it came to that."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = change

    def dying(act):
        def changed(*arguments, **options):
            nonlocal left
            if not str(arguments[0]).endswith(".claim"):
                left -= 1
            if left < 0:
                os._exit(9)
            return act(*arguments, **options)

        return changed

    try:
        with Claims(folder).taking(record["key"]):
            os.replace, Path.unlink = dying(os.replace), dying(Path.unlink)
            store.save(record, folder)
    finally:
        os._exit(0)


def made(count=5, seed=0):
    """Outcomes of a classifier."""
    random = np.random.default_rng(seed)
    right = (random.random(count) < 0.5).astype(float)
    dense = {"loss": random.random(count), "top1": right, "predicted": np.arange(count) % 10}
    return Outcomes(
        np.arange(count) * 7919 - 5,
        1.0 + random.integers(0, 300, count),
        dense,
        {name: values.copy() for name, values in dense.items()} | {"kl": random.random(count)},
        np.arange(count) % 10,
    )


def recorded(own, **compressed):
    """A record with these outcomes, and their means but for those given."""
    record = made_outcomes.with_outcomes(made_records.record(), own)
    record["compressed"] |= compressed
    return record


def assert_same(one, other):
    for name, array in one._arrays().items():
        assert other._arrays()[name].dtype == array.dtype
        np.testing.assert_allclose(other._arrays()[name], array, rtol=1e-7)
    assert one._arrays().keys() == other._arrays().keys()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    values=st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=9),
    whole=st.integers(-(2**63), 2**63 - 1),
    weight=st.floats(0.01, 1e9) | st.integers(1, 2**40).map(float),
    switches=st.booleans(),
)
def test_what_is_written_is_read_back(tmp_path, values, whole, weight, switches):
    count = len(values)
    own = Outcomes(
        np.arange(count) - 3,
        np.full(count, weight),
        {"loss": np.array(values)},
        {"loss": np.abs(np.sign(values)), "top1": np.ones(count)} if switches else {},
        np.full(count, whole),
    )
    outcomes.write(own, tmp_path / "o")
    read = outcomes.read(tmp_path / "o")
    assert np.array_equal(read.examples, own.examples) and np.array_equal(read.target, own.target)
    assert np.array_equal(read.weights, own.weights)
    assert np.array_equal(read.dense["loss"], own.dense["loss"].astype(np.float32))
    assert all(
        np.array_equal(read.compressed[name], own.compressed[name]) for name in own.compressed
    )


def of_texts(count=5, seed=0):
    """Outcomes of a language model, with losses of groups and continuations."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 300, (count, 3)).astype(float)
    losses = [np.where(counts > 0, random.random((count, 3)), 0) for _ in range(2)]
    texts = Continuations(8, np.arange(4) * 3, np.array([8.0, 3, 0, 5]), np.array([8.0, 2, 0, 1]))
    return replace(
        made(count, seed),
        target=None,
        breakdowns={"position": Breakdown("tokens before", ("1–3", "4–15", "16"), counts, *losses)},
        continuations=texts,
    )


def test_losses_of_groups_and_continuations_are_read_back(tmp_path):
    own = of_texts()
    outcomes.write(own, tmp_path / "o")
    read = outcomes.read(tmp_path / "o")
    assert_same(own, read)
    assert len(own._arrays()) == len(made()._arrays()) - 1 + 6
    ((name, one),) = read.breakdowns.items()
    assert (name, one.title, one.labels) == ("position", "tokens before", ("1–3", "4–15", "16"))
    assert read.continuations is not None and read.continuations.written == 8
    rows = np.array([True, False, True, False, True])
    assert np.array_equal(read.of(rows).breakdowns["position"].counts, one.counts[rows])
    assert np.array_equal(read.of(rows).dense["loss"], read.dense["loss"][rows])


def test_the_parts_that_are_optional_are_named_only_where_there_are_some(tmp_path):
    for own, named in [(made(), set()), (of_texts(), {"breakdowns", "written"})]:
        outcomes.write(own, tmp_path / "o")
        header, _ = hostile.split((tmp_path / "o").read_bytes())
        said = json.loads(header["__metadata__"]["lowrank"])
        assert set(said) & {"breakdowns", "written"} == named
        read = outcomes.read(tmp_path / "o")
        assert (bool(read.breakdowns), read.continuations is not None) == (bool(named),) * 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda one: replace(one, labels=("a",)), r"must be \(examples, 1\) and is \(5, 3\)"),
        (lambda one: replace(one, counts=-one.counts), "must be from 0"),
        (lambda one: replace(one, dense=one.dense * np.nan), "not finite"),
        (lambda one: replace(one, compressed=one.dense.astype(int)), "must be float64"),
        (lambda one: one.of(np.arange(4)), "must be of 5 examples and are of 4"),
    ],
)
def test_losses_of_groups_that_cannot_be_are_refused(change, says):
    own = of_texts()
    with pytest.raises(ValueError, match=says):
        replace(own, breakdowns={"position": change(own.breakdowns["position"])})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"written": 7}, r"same of continuations must lie in 0\.\.7"),
        ({"prefix": -np.ones(4)}, "prefix of continuations must lie in 0"),
        ({"prompts": np.arange(4.0)}, "prompts of continuations must be int64"),
        ({"prompts": np.arange(3)}, "must be .prompts,"),
    ],
)
def test_continuations_that_cannot_be_are_refused(changes, says):
    found = of_texts().continuations
    assert found is not None
    with pytest.raises(ValueError, match=says):
        replace(found, **changes)


def test_an_example_of_a_classifier_takes_few_bytes(tmp_path):
    sizes = []
    for count in (200, 1200):
        own = made(count)
        own = Outcomes(own.examples, np.ones(count), own.dense, own.compressed, own.target)
        outcomes.write(own, tmp_path / "o")
        sizes.append((tmp_path / "o").stat().st_size)
    # The hash 8; weight and target 1; of both models top1 and predicted 1, and loss 4; kl 4.
    assert (sizes[1] - sizes[0]) / 1000 == pytest.approx(8 + 2 + 4 + 12, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"examples": np.zeros(5, dtype=np.int64)}, "no two are equal"),
        ({"examples": np.arange(5.0)}, "examples must be int64 and is float64"),
        ({"examples": [1, 2, 3, 4, 5]}, r"examples must be \(5,\) and is list"),
        ({"weights": np.ones(4)}, r"weights must be \(5,\) and is \(4,\)"),
        ({"weights": np.zeros(5)}, "one of them above it"),
        ({"weights": np.array([1.0, 1, 1, 1, -1])}, "weights must be from 0"),
        ({"dense": {"loss": np.full(5, np.nan)}}, "dense/loss holds numbers that are not finite"),
        ({"compressed": {"predicted": np.ones(5)}}, "compressed/predicted must be int64"),
        ({"target": np.ones(5)}, "target must be int64"),
    ],
)
def test_what_are_no_outcomes_is_refused(changes, says):
    own = made()
    fields = {"examples": own.examples, "weights": own.weights, "target": own.target}
    fields |= {"dense": own.dense, "compressed": own.compressed}
    with pytest.raises(ValueError, match=says):
        Outcomes(**fields | changes)


def test_a_value_beyond_float32_is_refused(tmp_path):
    own = made()
    huge = Outcomes(own.examples, own.weights, {"loss": np.full(5, 1e39)}, {})
    with pytest.raises(ValueError, match="dense/loss holds 1e.39, too large"):
        outcomes.write(huge, tmp_path / "o")
    assert not list(tmp_path.iterdir())


def forged(said=None, **tensors):
    def make(folder):
        good = {"examples": torch.arange(3), "weights": torch.ones(3)}
        header = {"format": 1} | (said or {})
        tensor_files.write(folder / "o", good | tensors, "outcomes", header)

    return make


SAID = {"breakdowns": [{"name": "by", "title": "a title", "labels": ["a", "b"]}]}


def grouped(*shape):
    return {f"breakdown/by/{part}": torch.ones(shape) for part in BREAKDOWN}


def texts(count):
    found = {f"continuations/{part}": torch.ones(count) for part in CONTINUATIONS}
    return found | {"continuations/prompts": torch.arange(count)}


def damaged(change):
    def make(folder):
        outcomes.write(made(), folder / "o")
        (folder / "o").write_bytes(change((folder / "o").read_bytes()))

    return make


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: torch.save({"a": torch.ones(2)}, folder / "o"), "is a pickle"),
        (damaged(lambda data: data[:-3]), "no whole safetensors file"),
        (damaged(lambda data: data[:-1] + bytes([data[-1] ^ 1])), "damaged"),
        (lambda folder: save_file({"examples": torch.ones(3)}, folder / "o"), "holds no outcomes"),
        (lambda f: tensor_files.write(f / "o", {}, "model", {"format": 1}), "but 'model'"),
        (lambda f: tensor_files.write(f / "o", {}, "outcomes", {"format": 9}), "has format 9"),
        (lambda f: tensor_files.write(f / "o", {}, "outcomes", {"format": 1}), "lacks 'examples'"),
        (forged(weights=torch.ones(4)), "of one length"),
        (forged(weights=torch.ones(1).squeeze(), examples=torch.tensor(1)), "of one length"),
        (forged(spy=torch.ones(3)), "holds 'spy', which is no outcome"),
        (forged(**{"other/loss": torch.ones(3)}), "'other/loss', which is no outcome"),
        (forged(**{"dense/": torch.ones(3)}), "'dense/', which is no outcome"),
        (forged(**{"dense/a\x1b": torch.ones(3)}), "which is no outcome"),
        (forged(**{"dense/predicted": torch.ones(3)}), "must be whole numbers"),
        (forged(**{"dense/loss": torch.ones(3) * 1j}), "must be real numbers"),
        (forged(**{"dense/loss": torch.full((3,), torch.nan)}), "that are not finite"),
        (forged(examples=torch.zeros(3).long()), "no two are equal"),
        (forged(SAID), "lacks 'breakdown/by/counts'"),
        (forged(SAID, **grouped(3, 1)), "of one length"),
        (forged(SAID, **grouped(2, 2)), "of one length"),
        (forged(**grouped(3, 2)), "which is no outcome"),
        (forged({"breakdowns": 3}), "must be a list"),
        (forged({"breakdowns": [{"name": "a"}]}), "lacks 'title'"),
        (forged({"breakdowns": SAID["breakdowns"] * 2}, **grouped(3, 2)), "'by' twice"),
        (forged({"breakdowns": [{**SAID["breakdowns"][0], "labels": ["a", "\x1b"]}]}), "printable"),
        (forged({"written": 4}), "lacks 'continuations/prompts'"),
        (forged({"written": 0}, **texts(3)), "an integer of at least 1"),
        (forged({"written": 4}, **texts(3) | {"continuations/same": torch.ones(2)}), "length"),
        (forged(**texts(3)), "which is no outcome"),
    ],
)
def test_a_hostile_file_is_refused_by_name(make, says, tmp_path):
    make(tmp_path)
    with pytest.raises(ValueError, match=rf"(?s)^{tmp_path / 'o'}.*{says}"):
        outcomes.read(tmp_path / "o")


def test_a_file_of_exabytes_is_refused_before_it_is_read(tmp_path):
    outcomes.write(made(), tmp_path / "o")
    header, body = hostile.split((tmp_path / "o").read_bytes())
    header["weights"]["shape"] = [2**60]
    (tmp_path / "o").write_bytes(hostile.join(header, body))
    with pytest.raises(ValueError, match="no whole safetensors file"):
        outcomes.read(tmp_path / "o")


def test_a_record_is_saved_with_its_outcomes_and_found_with_them(tmp_path):
    own = made()
    path = store.save(recorded(own), tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {
        path.name,
        f"{path.stem}.outcomes.safetensors",
    }
    assert_same(own, outcomes.of_record(path))
    row = store.load(tmp_path).iloc[0]
    assert row["outcomes_file"] == f"{path.stem}.outcomes.safetensors"
    assert_same(own, outcomes.of_record(row["path"]))
    assert copy.deepcopy(recorded(own)).outcomes.weights.tolist() == own.weights.tolist()


def test_a_record_without_outcomes_names_none_and_one_that_names_them_has_them(tmp_path):
    plain = made_records.record()
    path = store.save(plain, tmp_path)
    assert store.load(tmp_path).iloc[0]["outcomes_file"] is None
    with pytest.raises(ValueError, match="names no outcomes of its examples"):
        outcomes.of_record(path)
    with pytest.raises(ValueError, match="names its outcomes .* are not in .*copy of it has no"):
        store.save(dict(recorded(made())), tmp_path)
    assert json.loads(path.read_text()) == json.loads(json.dumps(plain))


def test_the_new_record_takes_the_outcomes_of_the_old_one_along(tmp_path):
    path = store.save(recorded(made(seed=1)), tmp_path)
    again = made(seed=2)
    store.save(recorded(again), tmp_path)
    assert_same(again, outcomes.of_record(path))
    # What was read is saved again beside its own file.
    store.save(json.loads(path.read_text()), tmp_path)
    assert_same(again, outcomes.of_record(path))
    store.save(made_records.record(), tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "part"), [("top1", "compressed"), ("top1", "dense"), ("loss", "dense")]
)
def test_the_outcomes_of_another_measurement_are_none_of_a_record(name, part, tmp_path):
    """As those of two records that were swapped: whole files, each of a point of its own."""
    own = made(count=400)
    path = store.save(recorded(own), tmp_path)
    values = dict(getattr(own, part))
    values[name] = values[name].copy()
    values[name][np.argmin(values[name]) :][:20] += 1.0
    outcomes.write(replace(own, **{part: values}), path.parent / outcomes_name(path.stem))
    with pytest.raises(
        ValueError, match=f"{path.stem} are of another .* mean {name} of the {part}"
    ):
        outcomes.of_record(path)


@pytest.mark.parametrize("name", ["../x.outcomes.safetensors", "a", 3, "0" * 16 + ".safetensors"])
def test_a_record_cannot_name_a_file_of_others_as_its_outcomes(name, tmp_path):
    with pytest.raises(ValueError, match="outcomes_file=.* must be '.*outcomes.safetensors'"):
        store.save(made_records.record() | {"outcomes_file": name}, tmp_path)
    path = store.save(made_records.record(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"outcomes_file": name}))
    with pytest.raises(ValueError, match="names no outcomes"):
        outcomes.of_record(path)


@pytest.mark.parametrize("had", [True, False], ids=["measured again", "new"])
def test_a_crash_leaves_no_record_with_outcomes_that_are_not_its_own(had, tmp_path):
    changes = 0
    while True:
        folder = tmp_path / str(changes)
        folder.mkdir()
        old, new = made(seed=0), made(seed=1)
        if had:
            store.save(recorded(old, macs=2), folder)
        was_killed = saved_until(changes, recorded(new, macs=1), folder)
        models.clear(folder)
        Claims(folder).clean()
        for path in folder.glob("*.json"):
            record = json.loads(path.read_text())
            if "outcomes_file" in record:
                own = new if record["compressed"]["macs"] == 1 else old
                assert_same(own, outcomes.of_record(path))
        named = {json.loads(p.read_text()).get("outcomes_file") for p in folder.glob("*.json")}
        assert {path.name for path in folder.glob("*.safetensors")} == named - {None}
        if not was_killed:
            break
        changes += 1
    assert changes >= 2 and named


def test_outcomes_without_a_record_go_after_a_day_and_not_while_one_may_come(tmp_path):
    path = tmp_path / outcomes_name("0" * 16)
    outcomes.write(made(), path)
    models.clear(tmp_path)
    assert path.exists()
    os.utime(path, (path.stat().st_mtime - 2 * ABANDONED,) * 2)
    with Claims(tmp_path).taking("0" * 16):
        models.clear(tmp_path)
        assert path.exists()
    models.clear(tmp_path)
    assert not path.exists()
