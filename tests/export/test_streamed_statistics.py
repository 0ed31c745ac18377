"""Statistics of a checkpoint, saved once, in place of data for any method."""

import pytest
import torch
from made_checkpoints import llama, tied_gpt2
from safetensors.torch import load_file, save_file
from test_streamed_blocks import FOUR, batches, content
from transformers import AutoModelForCausalLM

import lowrank
from lowrank import CalibratedNorms, Calibration, Select, TruncatedSVD
from lowrank.calibration.collect import Collector
from lowrank.calibration.statistics_file import load_statistics
from lowrank.export.streamed.sequence import OUTPUTS

FULL = CalibratedNorms("full")
CASES = {
    "gptq": (llama, FOUR, "full", None),
    "low rank of blocks": (llama, TruncatedSVD(rank=20), "full", "*.layers.*"),
    "diagonal": (llama, TruncatedSVD(rank=20), "diagonal", None),
    "a tied table": (tied_gpt2, FOUR, "full", None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_method_takes_them_in_place_of_data(case, tmp_path, monkeypatch):
    make, method, norm, where = CASES[case]
    source = make(tmp_path / "dense")
    lowrank.compress_checkpoint(source, tmp_path / "data", method, where, norm, batches())
    made = lowrank.calibrate_checkpoint(source, tmp_path / "kept", batches(), where, norm)
    monkeypatch.setattr(Collector, "observe", None)  # No data are run any more.
    for name, workers, data in (
        ("one", 1, made),
        ("two", 2, Calibration.load(tmp_path / "kept")),
    ):
        lowrank.compress_checkpoint(
            source, tmp_path / name, method, where, norm, data, workers=workers
        )
        check_same_but_for_the_request(tmp_path / name, tmp_path / "data")


def check_same_but_for_the_request(folder, other):
    assert sorted(content(folder)) == sorted(content(other))
    for path in folder.glob("*.safetensors"):
        ours, theirs = load_file(path), load_file(other / path.name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), path.name


@pytest.mark.parametrize("moment", ["full", "diagonal"])
def test_they_are_those_of_the_model_in_memory(moment, tmp_path):
    source, norm = llama(tmp_path / "dense"), CalibratedNorms(moment)
    ours = lowrank.calibrate_checkpoint(source, tmp_path / "kept", batches(), norm=norm)
    dense = AutoModelForCausalLM.from_pretrained(source)
    sites, _ = Select("*").split(dense)
    theirs = norm.calibrate(dense, sites, batches())
    assert ours.source == theirs.source and ours.statistics.keys() == theirs.statistics.keys()
    for name, wanted in theirs.statistics.items():
        found = ours.statistics[name]
        assert (found.count, found.notes) == (wanted.count, wanted.notes)
        for one, other in ((found.columns, wanted.columns), (found.rows, wanted.rows)):
            assert one is other is None or torch.equal(one, other), name
    # And each may stand in for the other.
    whole = lowrank.compress(dense, FOUR, norm=FULL, data=ours) if moment == "full" else None
    assert whole is None or len(whole.layers) == len(sites)
    theirs.save(tmp_path / "one.safetensors")
    data = Calibration.load(tmp_path / "one.safetensors")
    svd = TruncatedSVD(rank=4)
    result = lowrank.compress_checkpoint(source, tmp_path / "svd", svd, None, norm, data)
    assert len(result.layers) == len(sites)


def test_one_file_is_in_memory_at_a_time(tmp_path, monkeypatch):
    source, read = llama(tmp_path / "dense"), []
    data = lowrank.calibrate_checkpoint(source, tmp_path / "kept", batches(), "*.layers.*")

    def counting(path):
        read.append(path.name)
        return load_statistics(path)

    monkeypatch.setattr("lowrank.calibration.statistics_folder.load_statistics", counting)
    lowrank.compress_checkpoint(source, tmp_path / "small", FOUR, "*.layers.*", FULL, data)
    assert read == ["statistics-00001.safetensors", "statistics-00002.safetensors"]


def test_they_go_on_at_the_block_where_a_run_ended(tmp_path, monkeypatch):
    source, save, saved = llama(tmp_path / "dense"), Calibration.save, []

    def ending(calibration, path):
        if len(saved) == 2:
            raise OSError("ended")
        saved.append(path)
        save(calibration, path)

    monkeypatch.setattr(Calibration, "save", ending)
    with pytest.raises(OSError, match="ended"):
        lowrank.calibrate_checkpoint(source, tmp_path / "kept", batches())
    saved.pop(0)
    lowrank.calibrate_checkpoint(source, tmp_path / "kept", batches(), "*.layers.1.*")
    monkeypatch.undo()
    lowrank.calibrate_checkpoint(source, tmp_path / "kept", batches())
    lowrank.calibrate_checkpoint(source, tmp_path / "whole", batches())
    ours, theirs = (Calibration.load(tmp_path / name) for name in ("kept", "whole"))
    assert ours.source == theirs.source and {*ours.statistics} == {*theirs.statistics}
    for name in theirs.statistics:
        found, wanted = ours.statistics[name], theirs.statistics[name]
        assert found.count == wanted.count
        assert found.columns is wanted.columns is None or torch.equal(found.columns, wanted.columns)


def test_a_run_on_other_weights_passes_over_no_block(tmp_path, monkeypatch):
    source, save, kept = llama(tmp_path / "dense"), Calibration.save, tmp_path / "kept"

    def ending(calibration, path):
        if path.name != "statistics-00001.safetensors":
            raise OSError("ended")
        save(calibration, path)

    monkeypatch.setattr(Calibration, "save", ending)
    with pytest.raises(OSError, match="ended"):
        lowrank.calibrate_checkpoint(source, kept, batches(), "*.layers.*_attn.*")
    monkeypatch.undo()
    found = lowrank.calibrate_checkpoint(source, kept, batches(), "*.layers.*").statistics
    assert len(found) == 14 and {entry.count for entry in found.values()} == {72}
    assert not (kept / OUTPUTS).exists()


def test_no_data_run_where_all_statistics_are_there(tmp_path, monkeypatch):
    source, kept = llama(tmp_path / "dense"), tmp_path / "kept"
    lowrank.calibrate_checkpoint(source, kept, batches(), "*.layers.*")
    before = content(kept)
    monkeypatch.setattr(Collector, "observe", None)
    found = lowrank.calibrate_checkpoint(source, kept, batches(), "*.layers.1.*")
    assert len(found.statistics) == 14 and content(kept) == before


def test_statistics_of_another_model_are_refused(tmp_path):
    source, other = llama(tmp_path / "dense"), tmp_path / "other"
    data = lowrank.calibrate_checkpoint(source, tmp_path / "kept", batches(), "*.layers.*")
    other.mkdir()
    for path in source.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    shard = sorted(other.glob("*.safetensors"))[1]
    tensors = load_file(shard)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="these statistics differ from what is wanted in model"):
        lowrank.compress_checkpoint(other, tmp_path / "small", FOUR, "*.layers.*", FULL, data)
    assert not (tmp_path / "small").exists()


BAD = {
    "a lacking layer": (FOUR, None, FULL, r"none of the layers \['model.embed_tokens'"),
    "another kind": (TruncatedSVD(rank=4), None, CalibratedNorms("diagonal"), "wanted in moment"),
    "in sequence": (FOUR, None, CalibratedNorms("full", mode="sequential"), "for mode='one-shot'"),
}


@pytest.mark.parametrize("case", BAD)
def test_statistics_that_do_not_fit_are_refused_before_any_work(case, tmp_path):
    method, where, norm, words = BAD[case]
    source = llama(tmp_path / "dense")
    data = lowrank.calibrate_checkpoint(source, tmp_path / "kept", batches(), "*.layers.*")
    with pytest.raises(ValueError, match=words):
        lowrank.compress_checkpoint(source, tmp_path / "small", method, where, norm, data)
    assert not (tmp_path / "small").exists()


def test_a_folder_with_something_else_stays_as_it_is(tmp_path):
    source, kept = llama(tmp_path / "dense"), tmp_path / "kept"
    lowrank.calibrate_checkpoint(source, kept, batches(), "*.layers.0.*")
    before = content(kept)
    with pytest.raises(ValueError, match="statistics that differ in data: name another folder"):
        lowrank.calibrate_checkpoint(source, kept, batches()[1:])
    with pytest.raises(ValueError, match="is there already"):
        lowrank.calibrate_checkpoint(source, source / "..", batches())
    assert content(kept) == before
    with pytest.raises(ValueError, match="no statistics"):
        Calibration.load(source / ".." / "..")


def test_damaged_files_are_named(tmp_path):
    source, kept = llama(tmp_path / "dense"), tmp_path / "kept"
    data = lowrank.calibrate_checkpoint(source, kept, batches(), "*.layers.*")
    path = kept / "statistics-00002.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(ValueError, match="statistics-00002.safetensors.* damaged"):
        lowrank.compress_checkpoint(source, tmp_path / "small", FOUR, "*.layers.*", FULL, data)
    path.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="statistics-00002"):
        Calibration.load(kept)
    path.write_bytes(whole)
    (kept / "again.safetensors").write_bytes(whole)
    with pytest.raises(ValueError, match="another file has"):
        Calibration.load(kept)
