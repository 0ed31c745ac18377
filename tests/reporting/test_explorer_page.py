"""The page of the explorer: what is in it, what is not, and how large it is."""

import base64
import hashlib
import json
import re
from pathlib import Path

import made_pages as pages
import made_records as records
import numpy as np
import pandas as pd
import pytest

from lowrank.records import outcomes, store
from lowrank.records.companions import OUTCOMES
from lowrank.reporting import explorer
from lowrank.reporting.curves import summarise
from lowrank.reporting.explorer import assemble
from lowrank.reporting.explorer.data import Command

HOSTILE = [
    "</script><script>document.title = 'pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    "'\"`${document.title='pwned'}`&lt;b&gt;",
    "$data ${script} $$",
    "ж" * 200,
]


def test_every_record_is_on_the_page_with_all_its_measures(tmp_path):
    records.write(tmp_path, 2, ("svd", "uniform"))
    records.write_texts(tmp_path, methods=("gptq", "svd"))
    frame, layers = store.load_both(tmp_path)
    parts = {part["name"]: part for part in pages.data(pages.page(tmp_path))["parts"]}
    assert parts.keys() == {"digits-mlp", "stories-llama"}
    found = [one["key"] for part in parts.values() for one in part["records"]]
    assert sorted(found) == sorted(frame["key"])
    digits, rows = parts["digits-mlp"], frame.set_index("key")
    for name in ("top1", "loss", "compression_ratio", "bytes", "validation_top1", "speedup_b1"):
        ours = [rows.loc[one["key"], name] for one in digits["records"]]
        assert digits["values"][name] == pytest.approx(ours, rel=1e-6)
    assert digits["errors"]["top1"] == pytest.approx([0.009] * 20)
    assert parts["stories-llama"]["y"] == "perplexity"
    names = [layer["name"] for layer in digits["layers"]]
    assert names == [[name for name, *_ in records.LAYERS]] * 20
    config = json.loads(Path(frame["path"].iloc[0]).read_text())["config"]
    documents = [one for part in parts.values() for one in part["documents"]]
    assert config in [one["config"] for one in documents]


def test_axes_say_their_scale_and_the_way_that_is_better(tmp_path):
    records.write(tmp_path, 1, ("svd", "uniform"))
    (part,) = pages.data(pages.page(tmp_path))["parts"]
    axes = {axis["name"]: axis for axis in part["axes"]}
    assert axes["compression_ratio"]["log"] and axes["compression_ratio"]["higher"]
    assert axes["latency_b1_s"]["log"] and not axes["latency_b1_s"]["higher"]
    assert not axes["top1"]["log"] and axes["top1"]["dense"] == pytest.approx([0.97, None])
    assert axes["kl"]["dense"][0] == 0 and not axes["kl"]["higher"]
    assert axes["compression_ratio"]["dense"] == [1.0, None]
    assert axes["validation_top1"]["title"] == "top-1 accuracy (validation split)"
    assert next(iter(axes)) == part["y"] == "top1"


def test_seeds_of_one_measurement_are_one_point(tmp_path):
    for step in (1, 2):
        for seed in range(3):
            store.save(records.record("svd", step, seed), tmp_path)
    again = records.record("svd", 1, 0) | {"seed": 7}
    again["config"] = again["config"] | {"seed": 7}
    store.save(again | {"key": store.key(again["config"])}, tmp_path)
    (part,) = pages.data(pages.page(tmp_path))["parts"]
    groups = {}
    for one in part["records"]:
        groups.setdefault(one["group"], []).append(one)
    assert sorted(map(len, groups.values())) == [3, 4]
    # Of the two seeds with the same numbers one counts.
    assert sorted(sum(one["own"] for one in group) for group in groups.values()) == [3, 3]
    own = {one["level"]: [] for one in part["records"]}
    for one, value in zip(part["records"], part["values"]["top1"], strict=True):
        if one["own"]:
            own[one["level"]].append(value)
    frame = store.load(tmp_path)
    for _, row in summarise(frame, ["top1"]).iterrows():
        assert np.mean(own[row["level"]]) == pytest.approx(row["top1"], abs=1e-7)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_record_is_markup(tmp_path, text):
    made_up = records.record("svd", 1, note=text) | {"method": text, "family": text, "task": text}
    made_up["layers"][0] |= {"name": text, "factorization": text, "note": text}
    store.save(made_up, tmp_path)
    page = pages.page(tmp_path, {made_up["key"]: Command(text)}, title=text)
    plain = pages.page(records.write(tmp_path / "plain", 1, ("svd",)), title="t")
    assert len(re.findall("<", page)) == len(re.findall("<", plain))
    assert page.count("</script>") == 4 and "pwned" not in re.sub("<(title|h1)>.*?</", "", page)
    (part,) = pages.data(page)["parts"]
    assert part["records"][0]["method"] == part["records"][0]["command"] == text
    assert part["layers"][0]["name"][0] == text


def test_the_page_runs_its_own_script_only_and_asks_for_nothing(tmp_path):
    page = pages.page(records.write(tmp_path, 1, ("svd",)))
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; ")
    for tag, kind in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}';" in policy
    assert not re.findall(r"\b(?:src|href)=\"(?!#)", page) and "@import" not in page
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in page


def test_the_same_records_make_the_same_page(tmp_path):
    pages.with_outcomes(tmp_path)
    assert pages.page(tmp_path) == pages.page(tmp_path)


def test_a_thousand_records_of_a_deep_network_leave_room_for_outcomes(tmp_path):
    random = np.random.default_rng(0)
    for seed in range(40):
        made_up = records.record("svd", 1, seed)
        layer = made_up["layers"][0]
        made_up["layers"] = [
            layer
            | {"name": f"layer{i}.conv", "relative_error": random.random()}
            | {"bytes": int(random.integers(1000, 9000)), "bits_per_weight": random.random()}
            for i in range(57)
        ]
        store.save(made_up, tmp_path)
    frame, layers = store.load_both(tmp_path)
    # Repetitions lie too far apart in the page for its compression to see them.
    copies = [frame.assign(seed=frame["seed"] + 40 * n) for n in range(25)]
    page = explorer.page(pd.concat(copies), layers, {}, "deep")
    assert len(pages.data(page)["parts"][0]["layers"]) == 1000
    assert len(page) < 0.5 * assemble.MOST_BYTES == 1_500_000


def test_outcomes_are_packed_in_the_order_of_their_examples(tmp_path):
    pages.with_outcomes(tmp_path)
    page = pages.page(tmp_path)
    (part,) = pages.data(page)["parts"]
    (held,) = json.loads(pages.content(page, "outcomes"))
    chunks = pages.content(page, "chunks")
    assert held["sets"] == [None] and held["why"].keys() <= {"top5", "kl", "flipped"}
    for index, one in enumerate(part["records"]):
        own = outcomes.of_record(tmp_path / f"{one['key']}.json")
        order = np.argsort(own.examples)
        for side in ("dense", "compressed"):
            for metric, is_bits in (("top1", 1), ("loss", 0)):
                places = held["metrics"][metric]["places"]
                offset, count, bits = places[held["metrics"][metric][side][index]]
                assert (count, bits) == (pages.EXAMPLES, is_bits)
                if bits:
                    packed = np.frombuffer(chunks, np.uint8, -(-count // 8), offset)
                    values = np.unpackbits(packed)[:count]
                else:
                    values = np.frombuffer(chunks, "<f4", count, offset)
                assert np.array_equal(values, getattr(own, side)[metric][order])


def test_how_far_a_recovery_took_the_dense_model_is_not_packed(tmp_path):
    """It is no distance of the dense model from itself; outcomes of earlier versions hold it."""
    own = pages.outcomes_of(0)
    flipped = (own.dense["top1"] != own.compressed["top1"]).astype(float)
    sides = (side | {"flipped": flipped} for side in (own.dense, own.compressed))
    far = outcomes.Outcomes(own.examples, own.weights, *sides)
    pages.save(records.record("svd", 1), tmp_path, far)
    page = pages.page(tmp_path)
    (held,) = json.loads(pages.content(page, "outcomes"))
    found = held["metrics"]["flipped"]
    assert found["dense"] == [None] and found["compressed"] == [0]
    (part,) = pages.data(page)["parts"]
    assert "flipped" not in part["denses"] and part["values"]["flipped"] == [flipped.mean()]
    (axis,) = [axis for axis in part["axes"] if axis["name"] == "flipped"]
    assert axis["dense"] == [0.0, None]


def test_what_the_dense_model_did_is_packed_once(tmp_path):
    dense = pages.outcomes_of(0)
    for step in range(3):
        own = pages.outcomes_of(step)
        same = outcomes.Outcomes(dense.examples, dense.weights, dense.dense, own.compressed)
        pages.save(records.record("svd", step), tmp_path, same)
    (held,) = json.loads(pages.content(pages.page(tmp_path), "outcomes"))
    assert held["metrics"]["top1"]["dense"] in ([n] * 3 for n in range(4))
    assert len(held["metrics"]["top1"]["places"]) == 4


def test_records_on_other_examples_are_of_another_set(tmp_path):
    pages.save(records.record("svd", 0), tmp_path, pages.outcomes_of(0))
    pages.save(records.record("svd", 1), tmp_path, pages.outcomes_of(1, examples=49))
    (held,) = json.loads(pages.content(pages.page(tmp_path), "outcomes"))
    assert sorted(held["of"]) == [0, 1]


def test_weights_that_differ_are_packed(tmp_path):
    own = pages.outcomes_of(0)
    weights = np.arange(pages.EXAMPLES, dtype=float)
    weighted = outcomes.Outcomes(own.examples, weights, own.dense, own.compressed)
    pages.save(records.record("svd", 0), tmp_path, weighted)
    page = pages.page(tmp_path)
    (held,) = json.loads(pages.content(page, "outcomes"))
    ((offset, count, bits),) = held["sets"]
    found = np.frombuffer(pages.content(page, "chunks"), "<f4", count, offset)
    assert not bits and np.array_equal(found, weights[np.argsort(own.examples)])


def test_outcomes_that_do_not_fit_are_left_out_with_the_reason(tmp_path, monkeypatch):
    pages.with_outcomes(tmp_path)
    whole = pages.page(tmp_path)
    size = len(pages.content(whole, "chunks"))
    # Room for the bits of top-1, not for the floats of the loss.
    monkeypatch.setattr(assemble, "MOST_BYTES", len(whole) - size)
    page = pages.page(tmp_path)
    (held,) = json.loads(pages.content(page, "outcomes"))
    assert held["metrics"].keys() == {"top1"} and len(page) < len(whole)
    assert "make a page of fewer records" in held["why"]["loss"]


def test_without_outcomes_the_page_says_so(tmp_path):
    records.write(tmp_path, 1, ("svd",))
    page = pages.page(tmp_path)
    (held,) = json.loads(pages.content(page, "outcomes"))
    assert held["lacking"] == ["the record holds no outcomes of single examples"] * 5
    assert held["of"] == [None] * 5 and not held["metrics"]


def test_outcomes_that_are_lost_or_broken_lack_with_the_reason(tmp_path):
    pages.with_outcomes(tmp_path, ("svd",))
    lost, broken = sorted(tmp_path.glob("*.safetensors"))[:2]
    lost.unlink()
    broken.write_bytes(b"no tensors")
    page = pages.page(tmp_path)
    (part,) = pages.data(page)["parts"]
    (held,) = json.loads(pages.content(page, "outcomes"))
    said = dict(zip((one["key"] for one in part["records"]), held["lacking"], strict=True))
    assert "is not beside it" in said[OUTCOMES.key_of(lost.name)]
    assert broken.name in said[OUTCOMES.key_of(broken.name)]
    assert list(said.values()).count("") == 2


def test_an_empty_folder_has_no_page(tmp_path):
    with pytest.raises(ValueError, match="there is no record"):
        pages.page(tmp_path)


def test_models_without_any_quality_have_no_page(tmp_path):
    made_up = records.record("svd", 0)
    sizes = ("params", "trainable_params", "bytes", "macs", "peak_memory_bytes")
    made_up["compressed"] = {name: made_up["compressed"][name] for name in sizes}
    store.save(made_up, tmp_path)
    with pytest.raises(ValueError, match="no value of what their task measures"):
        explorer.page(*store.load_both(tmp_path), {}, "t")
