"""What the rows of a table are compared with: points, or their layers and the sums of these."""

import made_entries
import made_records
import pytest

from experiments.reproduction import ours, runs
from experiments.reproduction.entry import Run
from lowrank.records import keys, load_layers, store


def test_the_rows_of_layers_have_their_sums(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run(takes="seconds", sweep=["sweep=mine"], of="layers")
    assert runs.frame("table", "mine", run) is None
    folder = made_records.write(tmp_path / "results/runs/mine", seeds=2, methods=("svd",))
    layers, found = load_layers(folder), runs.frame("table", "mine", run)
    totals = found[found["name"] == "total"]
    assert len(totals) == layers["path"].nunique() and len(found) == len(layers) + len(totals)
    for _, total in totals.iterrows():
        own = layers[layers["key"] == total["key"]]
        for size in ("bytes", "dense_bytes", "params"):
            assert total[size] == own[size].sum()
        assert (total["seed"], total["point"]) == (own["seed"].iloc[0], own["point"].iloc[0])
    assert totals["relative_error"].isna().all() and not layers["relative_error"].isna().any()


def test_networks_whose_layers_are_alike_in_size_are_two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run(takes="seconds", sweep=["sweep=mine", "seed=0,1"], of="layers", seeds=2)
    folder = tmp_path / "results/runs/mine"
    for seed, top1 in enumerate((0.9, 0.8)):
        record = made_records.record("svd", 0, 0)
        config = record["config"] | {"seed": seed}
        made = record | {"config": config, "seed": seed, "key": keys.key(config)}
        store.save(made | {"compressed": made["compressed"] | {"top1": top1}}, folder)
    frame = runs.frame("table", "mine", run)
    value = made_entries.value(ours="bytes")
    found = ours.measured(run, frame, {"name": "total"}, value, "here")
    assert (found.count, found.spread) == (2, 0)


def test_sizes_that_no_layer_has_stay_unknown(tmp_path):
    layers = load_layers(made_records.write(tmp_path, seeds=1, methods=("svd",)))
    layers = layers.assign(kept=float("nan"))
    assert runs.with_totals(layers)["kept"].isna().all()


def test_a_program_has_no_layers():
    with pytest.raises(ValueError, match="of: layers is of sweeps"):
        Run(takes="seconds", program={"_target_": "x"}, of="layers")
