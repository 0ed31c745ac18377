"""Recoveries that leave the dense model as it is, from the command line to the comparison."""

import json

import pytest
import sweeps
from safetensors.torch import load_file

from lowrank.records import store
from lowrank.reporting.curves import comparisons


def test_a_tuned_model_is_on_record_as_such_beside_an_untouched_dense_one(cache, tmp_path):
    # A few steps with 2 bits, where there is much to gain.
    method = ("method=quantization", "method.bits=2", "method.group_size=16")
    recoveries = "recovery=none,bias_correction,tune,corrected_tune"
    done = sweeps.run(cache, *method, recoveries, f"results={tmp_path}")
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    named = {record["recovery"]: record for record in found}
    assert {name: record["tuned"] for name, record in named.items()} == {
        "none": False,
        "bias_correction": False,
        "tune": True,
        "corrected_tune": True,
    }
    plain = named["none"]
    for record in found:
        assert record["dense_recovery"] == "none" and "dense_before_recovery" not in record
        assert record["dense"] == plain["dense"]
        assert record["compressed"]["bytes"] == plain["compressed"]["bytes"]
    tuned = named["tune"]["recovered"]
    assert tuned["kept_epoch"] > 0 and tuned["held_out_examples"] > 0
    assert named["tune"]["compressed"]["kl"] < 0.7 * plain["compressed"]["kl"]
    ((name, part),) = comparisons(store.load(tmp_path))
    assert name == "digits-mlp"
    assert sorted(part["method"]) == [
        "quantization",
        *(f"quantization + {own}" for own in ("bias_correction", "corrected_tune", "tune")),
    ]


# The first as pruned ResNets are reproduced, with convolutions and BatchNorm.
TASKS = {"gradual": ("task=digits_cnn", "where=inner"), "lc": ("task=digits", "where=all")}
OPTIONS = {
    "gradual": ("epochs=4", "learning_rate=0.005", "batch_size=64", "renewals=3"),
    "lc": ("epochs=20", "learning_rate=0.05", "batch_size=32", "steps=20", "growth=1.6"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_compression_in_the_loop_is_compared_with_a_dense_model_trained_as_long(
    name, cache, tmp_path
):
    done = sweeps.run(
        cache,
        *(*TASKS[name], "method=magnitude_global", "method.sparsity=0.9"),
        *(f"recovery={name}", *(f"recovery.{option}" for option in OPTIONS[name])),
        *("save=all", f"results={tmp_path}"),
    )
    assert done.returncode == 0, done.stderr
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert record["dense_recovery"] == name and record["tuned"]
    # The network that was trained while it was compressed, and no other, was measured and kept.
    kept = sum(layer["params"] for layer in record["layers"])
    dense = sum(layer["dense_params"] for layer in record["layers"])
    assert kept == dense - round(0.9 * dense)
    tensors = load_file(tmp_path / record["model_file"])
    values = [v for name, v in tensors.items() if name.endswith("factorization.values.weight")]
    assert sum(int((value != 0).sum()) for value in values) == kept
    assert record["compressed"]["top1"] > 0.95 < record["dense"]["top1"]
    assert "note" not in record["recovered"]
