"""A record is written whole or not at all, comes back as it was, and has the name of its config."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_records as records
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowrank.metrics.metric import Metric
from lowrank.records import store

texts = st.text(max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
finite = scalars.filter(lambda value: not isinstance(value, float) or math.isfinite(value))
plain = st.recursive(
    finite, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
configs = st.dictionaries(texts, plain, max_size=4)


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(config=configs, extra=plain)
def test_what_is_saved_is_read_back(tmp_path, config, extra):
    made_up = records.record(**config) | {"extra": extra}
    path = store.save(made_up, tmp_path)
    assert path == tmp_path / f"{store.key(made_up['config'])}.json"
    assert store.exists(made_up["key"], tmp_path)
    assert read(path) == json.loads(json.dumps(made_up))


@given(config=configs)
def test_the_key_is_of_the_content_and_not_of_its_order(config):
    turned = {name: config[name] for name in reversed(config)}
    assert store.key(turned) == store.key(config)
    assert len(store.key(config)) == 16 and int(store.key(config), 16) >= 0


def test_the_key_leaves_out_what_does_not_name_the_point():
    config = {"method": {"rank": 8, "force": 1}, "seed": 0}
    for name in store.VOLATILE:
        assert store.key({**config, name: "anything"}) == store.key(config)
    assert store.key({**config, "method": {"rank": 8, "force": 2}}) != store.key(config)
    assert store.key({**config, "method": {"rank": 8.0, "force": 1}}) == store.key(config)
    others = [{**config, "seed": 1}, {**config, "method": {"rank": 9, "force": 1}}]
    assert len({store.key(other) for other in [config, *others]}) == 3


def test_the_key_tells_apart_what_only_looks_alike():
    alike = [{"a": 1}, {"a": True}, {"a": "1"}, {"a": [1]}, {"a": None}, {"a": {}}, {"a": 1.5}]
    assert len({store.key(config) for config in alike}) == len(alike)


def test_points_are_alike_over_seeds_and_only_over_seeds():
    points = {
        (step, seed): store.point(records.record("svd", step, seed)["config"])
        for step in range(3)
        for seed in range(3)
    }
    assert len({point for (step, _), point in points.items() if step == 1}) == 1
    assert len(set(points.values())) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("spoil", "path"),
    [
        (lambda r, bad: r["compressed"].update(kl=bad), "compressed.kl"),
        (lambda r, bad: r["layers"][1].update(relative_error=bad), r"layers\[1\].relative_error"),
        (lambda r, bad: r["skipped"].append(["x", bad]), r"skipped\[1\]\[1\]"),
    ],
)
def test_a_number_that_is_none_is_refused_by_its_path(tmp_path, bad, spoil, path):
    made_up = records.record()
    spoil(made_up, bad)
    with pytest.raises(ValueError, match=rf"^{path} is (nan|inf|-inf): a failed measurement"):
        store.save(made_up, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("part", "name"),
    [("", "layers"), ("", "seed"), ("compressed", "bytes"), ("ratios", "param_ratio")],
)
def test_a_record_that_lacks_a_field_is_refused(tmp_path, part, name):
    made_up = records.record()
    del (made_up[part] if part else made_up)[name]
    with pytest.raises(ValueError, match=rf"lacks {part}{'.' if part else ''}{name}"):
        store.save(made_up, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_json_cannot_hold_is_refused_by_its_path(tmp_path):
    made_up = records.record() | {"timings": {"when": object()}}
    with pytest.raises(ValueError, match=r"timings\.when is a object, which JSON cannot hold"):
        store.save(made_up, tmp_path)
    with pytest.raises(ValueError, match="field 3 in config must be a string"):
        store.key({3: 1})


def test_a_key_of_another_config_is_refused(tmp_path):
    made_up = records.record() | {"key": "0" * 16}
    with pytest.raises(ValueError, match="is not the key of this record's config"):
        store.save(made_up, tmp_path)


def test_a_crash_before_the_rename_leaves_nothing(tmp_path, monkeypatch):
    def crash(*_):
        raise OSError("the disk went away")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="went away"):
        store.save(records.record(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_crash_while_a_record_is_replaced_keeps_the_old_one(tmp_path, monkeypatch):
    old = records.record()
    path = store.save(old, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        store.save(old | {"timings": {"total_s": 9.0}}, tmp_path)
    assert read(path) == json.loads(json.dumps(old))
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import json, sys
from lowrank.records import store
record = json.loads(sys.argv[1])
while True:
    record["key"] = store.key(record["config"])
    store.save(record, sys.argv[2])
    record["config"]["seed"] += 1
"""


def test_killed_at_any_moment_every_record_is_whole(tmp_path):
    writer = [sys.executable, "-c", WRITER, json.dumps(records.record("svd", 1, 0)), str(tmp_path)]
    for delay in (0.0, 0.003, 0.011):
        before = len(list(tmp_path.glob("*.json")))
        with subprocess.Popen(writer, cwd=Path.cwd()) as process:
            while len(list(tmp_path.glob("*.json"))) <= min(before, 5):
                assert process.poll() is None
                time.sleep(0.002)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
    frame = store.load(tmp_path)
    assert len(frame) == len(list(tmp_path.glob("*.json"))) > 0
    assert all(store.exists(key, tmp_path) for key in frame["key"])


def test_a_folder_that_cannot_be_written_fails_at_the_start(tmp_path):
    store.check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written to .*file/runs.*Name a folder"):
        store.check_writable(tmp_path / "file" / "runs")


def test_load_gives_one_tidy_row_per_record(tmp_path):
    made_up = records.record("svd", 2, 1, list=[1, 2]) | {"dense_before_recovery": {"top1": 0.9}}
    store.save(made_up, tmp_path / "deep")
    (tmp_path / ".left-behind.json.tmp").write_text("{")
    frame = store.load(tmp_path)
    assert len(frame) == 1
    row = frame.iloc[0]
    assert row["key"] == made_up["key"] and row["method"] == "svd" and row["level"] == 8
    assert row["top1"] == made_up["compressed"]["top1"]
    assert row["dense_top1"] == made_up["dense"]["top1"]
    assert row["dense_before_recovery_top1"] == 0.9
    assert row["compression_ratio"] == made_up["ratios"]["compression_ratio"]
    one, many = made_up["latency"]
    assert row["latency_b1_s"] == one["compressed_s"]
    assert row["dense_latency_b1_iqr_s"] == one["dense_iqr_s"]
    assert row["speedup_b64"] == many["speedup"] and row["speedup_b64_low"] == many["speedup_low"]
    assert row["latency_b64_dtype"] == "float32"
    assert row["method.rank"] == 8 and row["method.axes"] == "[0, 1]"
    assert row["config.list"] == "[1, 2]"
    assert row["environment.torch"] == "2.13.0" and row["timings.total_s"] == 0.5
    assert row["compressed_layers"] == 3 and row["skipped_layers"] == 1
    assert row["path"] == str(tmp_path / "deep" / f"{made_up['key']}.json")


@pytest.mark.parametrize(
    "recovered, loss",
    [
        ({"losses": [0.9, 0.4]}, 0.4),
        ({"losses": []}, None),
        ({"losses": "0.4"}, None),
        ({"steps": [{"losses": [0.9]}]}, None),
    ],
)
def test_the_loss_of_the_last_epoch_is_a_column(tmp_path, recovered, loss):
    store.save(records.record() | {"recovered": recovered}, tmp_path)
    assert store.load(tmp_path).iloc[0].get("train_loss") == loss


def test_the_steps_of_a_chain_are_columns(tmp_path):
    steps = [{"_target_": "Prune", "sparsity": 0.5}, {"_target_": "Quantize", "bits": 4}]
    store.save(records.record(method={"steps": steps}), tmp_path)
    row = store.load(tmp_path).iloc[0]
    assert row["method.steps.0.sparsity"] == 0.5 and row["method.steps.1.bits"] == 4


def test_load_layers_gives_one_row_per_layer(tmp_path):
    made_up = copy.deepcopy(records.record())
    made_up["layers"][1]["tied_to"] = ["a", "b"]
    store.save(made_up, tmp_path)
    frame = store.load_layers(tmp_path)
    assert list(frame["name"]) == ["0", "2", "4"] and list(frame["position"]) == [0, 1, 2]
    assert list(frame["out"]) == [300, 100, 10] and list(frame["in"]) == [784, 300, 100]
    assert list(frame["bytes"]) == [layer["bytes"] for layer in made_up["layers"]]
    assert frame["tied_to"][1] == "a, b"
    assert set(frame["key"]) == {made_up["key"]}
    assert set(frame["compression_ratio"]) == {made_up["ratios"]["compression_ratio"]}


def test_all_records_of_a_sweep_are_there(tmp_path):
    records.write(tmp_path)
    frame = store.load(tmp_path)
    assert len(frame) == len(records.METHODS) * 5 * 3
    assert frame["key"].is_unique
    assert isinstance(frame, pd.DataFrame)
    assert (frame.groupby("point").size() == 3).all()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"schema": 1', "delimiter"),
        ("[1]", "mapping of fields, not list"),
        ('{"schema": 3}', "lacks key, config"),
    ],
)
def test_a_broken_record_names_itself(tmp_path, text, reason):
    store.save(records.record(), tmp_path)
    (tmp_path / "0123456789abcdef.json").write_text(text)
    with pytest.raises(ValueError, match=rf"0123456789abcdef\.json is not a whole.*{reason}"):
        store.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": "0"}', b"\xff"])
def test_a_broken_record_does_not_count_as_one_that_exists(tmp_path, text):
    path = store.save(records.record(), tmp_path)
    assert store.exists(path.stem, tmp_path) and not store.exists("0" * 16, tmp_path)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"{path.name} is not a whole record: .*Move it away"):
        store.exists(path.stem, tmp_path)


def test_nan_in_a_file_and_another_schema_are_broken_too(tmp_path):
    path = store.save(records.record(), tmp_path)
    path.write_text(path.read_text().replace('"kl": 0.3', '"kl": NaN'))
    with pytest.raises(ValueError, match=r"compressed\.kl is nan"):
        store.load(tmp_path)
    path.write_text(json.dumps(records.record() | {"schema": 99}))
    with pytest.raises(ValueError, match="schema=99 is not the known one, 3"):
        store.load(tmp_path)


def test_a_folder_without_records_says_so(tmp_path):
    with pytest.raises(ValueError, match="no record .* run a sweep into it first"):
        store.load(tmp_path)
    with pytest.raises(ValueError, match="there is no folder .*nowhere"):
        store.load(tmp_path / "nowhere")


def test_norm_calibration_and_bits_are_columns(tmp_path):
    for method in ("rtn", "gptq"):
        store.save(records.text_record(method, 1), tmp_path)
    frame = store.load(tmp_path).set_index("method")
    assert dict(frame["norm"]) == {"rtn": "identity", "gptq": "full"}
    assert frame.at["gptq", "calibration.samples"] == 64
    assert math.isnan(frame.at["rtn", "calibration.samples"])
    assert frame.at["gptq", "layers_bits_per_weight"] == 3.31
    assert frame.at["gptq", "dense_layers_bits_per_weight"] == pytest.approx(32)
    assert frame.at["gptq", "body_compression_ratio"] > frame.at["gptq", "compression_ratio"]
    layers = store.load_layers(tmp_path).set_index("method")
    assert set(layers.loc["gptq", "norm"]) == {"full"}
    assert (layers["norm_error"] == layers["relative_error"] / 2).all()


def test_a_record_of_an_older_lowrank_is_refused_wherever_it_is_met(tmp_path):
    """One that counted as measured would stop the report of a sweep that was measured on."""
    path = store.save(records.record(), tmp_path)
    path.write_text(path.read_text().replace('"schema": 3', '"schema": 2'))
    for meet in (lambda: store.load(tmp_path), lambda: store.exists(path.stem, tmp_path)):
        with pytest.raises(ValueError, match="schema=2 .* has to be measured again.* Move it away"):
            meet()


def measuring(name):
    def spoil(record):
        record["metrics"] = [*record["metrics"], *records.plain([Metric(name, "x", "x")])]
        record["compressed"][name] = 1.0

    return spoil


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (measuring("path"), "'path'"),
        (lambda r: r["ratios"].update(top1=1.0), "'top1'"),
        (measuring("dense_top1"), "'dense_top1'"),
        (measuring("speedup_b1"), "'speedup_b1'"),
        (lambda r: r["config"].update(environment={"torch": "x"}), "'environment.torch'"),
    ],
)
def test_no_field_passes_for_another_column(tmp_path, spoil, named):
    made_up = records.record()
    spoil(made_up)
    path = store.save(made_up | {"key": store.key(made_up["config"])}, tmp_path)
    with pytest.raises(
        ValueError, match=rf"{path.name} is not a whole record: it names {named} mo"
    ):
        store.load(tmp_path)


def test_nor_does_one_of_a_layer(tmp_path):
    made_up = records.record()
    made_up["layers"][0]["path"] = "/elsewhere"
    store.save(made_up, tmp_path)
    with pytest.raises(ValueError, match="it names 'path' more than once"):
        store.load_layers(tmp_path)


def test_a_record_without_a_speedup_reads_as_none_of_it(tmp_path):
    made_up = records.record() | {"dense_dtype": "float16"}
    made_up["latency"][0] |= {"speedup": None, "speedup_low": None, "speedup_high": None}
    made_up["ratios"] |= {"coverage": 0.25, "theoretical_speedup": None}
    store.save(made_up, tmp_path)
    row = store.load(tmp_path).iloc[0]
    for name in ("speedup_b1", "speedup_b1_low", "speedup_b1_high", "theoretical_speedup"):
        assert pd.isna(row[name])
    assert row["latency_b1_s"] > 0 and row["speedup_b64"] > 0
    assert row["coverage"] == 0.25 and row["dense_dtype"] == "float16"


def test_a_record_has_no_field_that_it_need_not_have(tmp_path):
    made_up = records.record()
    for name in ("calibration", "dense_dtype"):
        made_up.pop(name, None)
    store.save(made_up | {"latency": [], "level": None, "protocol": None}, tmp_path)
    row = store.load(tmp_path).iloc[0]
    assert row["level"] is None and not [name for name in row.index if "speedup_b" in name]
    layers = store.load_layers(tmp_path)
    assert (layers["norm_error"] == layers["relative_error"]).all()
    assert set(layers["path"]) == {row["path"]}


def test_both_tables_are_read_in_one_pass(tmp_path, monkeypatch):
    for step in (1, 2):
        store.save(records.record("svd", step), tmp_path)
    apart = store.load(tmp_path), store.load_layers(tmp_path)
    checked, check = [], store.check_record
    monkeypatch.setattr(store, "check_record", lambda one: checked.append(check(one)))
    both = store.load_both(tmp_path)
    assert len(checked) == 2
    assert all(one.equals(other) for one, other in zip(both, apart, strict=True))
