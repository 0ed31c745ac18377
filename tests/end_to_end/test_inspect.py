"""From a real sweep on the digits to the pictures and the table of what the average hides."""

import json

import pytest
from hydra import compose, initialize_config_dir
from sweeps import ROOT, run

from experiments.inspect import inspect, read
from lowrank.records import store
from lowrank.reporting.fidelity import class_table, fidelity_table


@pytest.fixture(scope="module")
def point(cache, tmp_path_factory):
    """The record of a point with its model."""
    folder = tmp_path_factory.mktemp("runs")
    chosen = ("method=magnitude", "method.sparsity=0.8", "save=all", f"results={folder}")
    assert "1 measured here" in run(cache, *chosen).stdout
    (path,) = folder.glob("*.json")
    return path


@pytest.fixture
def drawn(cache, monkeypatch):
    monkeypatch.setenv("LOWRANK_CACHE", str(cache))

    def drawn(*overrides):
        with initialize_config_dir(str(ROOT / "conf" / "inspect"), version_base="1.3"):
            inspect(compose("inspect", list(overrides)))

    return drawn


def test_a_saved_model_is_drawn_and_what_it_lacks_is_said(point, drawn, tmp_path, capsys):
    drawn(f"record={point}", f"out={tmp_path}", "examples=50", "directions=2")
    kinds = {path.stem.partition("-")[2] for path in tmp_path.glob("*.png")}
    assert kinds == {"spectra", "similarity", "directions", "mask"}
    printed = capsys.readouterr().out
    for kind in ("heads", "attention", "tokens"):
        assert f"no picture of {kind}: " in printed


def test_what_cannot_be_drawn_is_refused(point, drawn, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="no record of a measured point"):
        read(tmp_path / "a.json")
    with pytest.raises(ValueError, match="is no file"):
        drawn(f"record={tmp_path / 'b.json'}")
    (tmp_path / point.name).write_text(point.read_text())
    with pytest.raises(ValueError, match="no model beside it: measure its point with save=all"):
        drawn(f"record={tmp_path / point.name}")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("layer=fc9", "layer='fc9' holds no weight: there are fc1"),
        ("row=99999", "row=99999 is no example"),
        ("examples=3", "examples=3 must be at least 4"),
        ("directions=many", "directions='many' must be at least 1"),
        ("+direction=3", "no option 'direction': there are record, out, layer"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_drawn(
    point, drawn, tmp_path, wrong, says
):
    with pytest.raises(ValueError, match=says):
        drawn(f"record={point}", f"out={tmp_path}", wrong)
    assert not list(tmp_path.iterdir())


def test_the_table_has_the_numbers_of_the_record(point):
    frame = store.load(point.parent)
    record, row = json.loads(point.read_text()), fidelity_table(frame, steps=(2,)).values.iloc[0]
    ours, dense = record["compressed"], record["dense"]
    assert row["flipped"] == pytest.approx(ours["flipped"])
    assert row["kl"] == pytest.approx(ours["kl"], rel=1e-5)
    errors = record["standard_errors"]
    for name in ("flipped", "kl"):
        assert row[f"{name}_se"] == pytest.approx(errors["compressed"][name], rel=1e-5)
    assert row["loss_change"] == pytest.approx(ours["loss"] - dense["loss"], rel=1e-4)
    assert row["loss_change_se"] == pytest.approx(errors["change"]["loss"], rel=1e-4)
    change = row["wrong_to_right"] - row["right_to_wrong"]
    assert change == pytest.approx(ours["top1"] - dense["top1"], abs=1e-6)
    recalls = class_table(frame, steps=(2,)).values
    assert recalls["compressed"].mean() == pytest.approx(ours["macro_recall"], abs=1e-6)
    assert recalls["dense"].mean() == pytest.approx(dense["macro_recall"], abs=1e-6)
