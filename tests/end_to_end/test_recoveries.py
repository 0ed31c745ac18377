"""Recoveries that leave the dense model as it is, from the command line to the comparison."""

import json

import sweeps

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
