"""One point measured without a sweep."""

import functools
import json
import random
from dataclasses import dataclass, fields, replace

import numpy as np
import programs
import pytest
import scipy.stats
import torch
from digits_task import QUICK, TASK
from safetensors.torch import load_file
from torch import nn

import lowrank
from lowrank.allocation import Budget, MixedAllocation, grid
from lowrank.calibration import CalibratedNorms
from lowrank.decomposers import (
    GPTQ,
    Chain,
    Decomposer,
    LoRA,
    Quantization,
    TruncatedSVD,
    Uncompressed,
)
from lowrank.export.formats import format_named
from lowrank.factorizations import Dense
from lowrank.model.copying import copied
from lowrank.point import Generation, MeasureSettings, dense, evaluate
from lowrank.point import point as point_module
from lowrank.point.config import described
from lowrank.point.point import measure_point
from lowrank.records import outcomes, store
from lowrank.recovery import FineTune, Tune
from lowrank.reporting.curves import dense_baseline
from lowrank.tasks import ImageClassification


def without_times(record):
    return json.dumps({**record, "timings": None, "calibration": None})


def test_a_point_is_a_record_that_can_be_saved_and_read(tmp_path):
    before = torch.get_num_threads()
    record = lowrank.measure_point(TASK, TruncatedSVD(rank=4), measure=QUICK, threads=1)
    assert torch.get_num_threads() == before
    store.save(record, tmp_path)
    (row,) = store.load(tmp_path).to_dict("records")
    assert (row["method"], row["family"], row["level"]) == ("TruncatedSVD", "low rank", 4)
    assert (row["norm"], row["recovery"], row["allocates"]) == ("identity", "none", False)
    assert row["method.rank"] == 4 and row["task.builder"] == TASK.builder
    again = measure_point(TASK, TruncatedSVD(rank=4), measure=QUICK, threads=1)
    assert without_times(again) == without_times(record)


@pytest.mark.parametrize("recovery", [None, FineTune(1, 1e-3)], ids=["dense", "recovered"])
def test_the_agreement_is_on_record_of_the_validation_split_too(recovery):
    """So that a level can be chosen there by it; the dense model is the one with the recovery."""
    record = measure_point(TASK, TruncatedSVD(rank=4), measure=QUICK, recovery=recovery)
    model, method = TASK.model(), TruncatedSVD(rank=4)
    compressed = lowrank.compress(model, method, example=TASK.example()).model
    for one in (model, compressed) if recovery else ():
        recovery.recover(one, TASK)
    answers = [
        torch.cat([TASK.forward(m.eval(), b) for b in TASK.split("validation").batches(256)])
        for m in (model, compressed)
    ]
    dense_log, log = (scores.detach().double().log_softmax(1) for scores in answers)
    kl = (dense_log.exp() * (dense_log - log)).sum(1).mean()
    flipped = (dense_log.argmax(1) != log.argmax(1)).double().mean()
    assert record["validation"]["kl"] == pytest.approx(float(kl), rel=1e-4)
    assert record["validation"]["flipped"] == pytest.approx(float(flipped))


def test_the_generators_of_the_caller_go_on_where_they_were():
    draws = []
    for runs in (False, True):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        if runs:
            measure_point(TASK, TruncatedSVD(rank=4), measure=QUICK)
        draws.append((random.random(), np.random.rand(), float(torch.rand(()))))
    assert draws[0] == draws[1]


def test_a_task_that_is_defined_anew_is_measured_anew():
    """As in a notebook, whose cell is edited and run again."""

    def defined(units):
        @dataclass(frozen=True)
        class Edited(ImageClassification):
            def network(self):
                return nn.Sequential(nn.Flatten(), nn.Linear(64, units), nn.Linear(units, 10))

        return Edited(**{one.name: getattr(TASK, one.name) for one in fields(TASK)})

    config = measure_point(TASK, TruncatedSVD(rank=4), measure=QUICK)["config"]
    for units in (16, 24):
        record = measure_point(defined(units), TruncatedSVD(4), measure=QUICK, config=config)
        assert record["dense"]["params"] == 65 * units + 10 * units + 10


def test_what_cannot_be_made_again_is_refused():
    with pytest.raises(ValueError, match="task.builder is .*<lambda>, which cannot be found again"):
        described({"builder": lambda: None}, "task")


class Unreached(TruncatedSVD):
    def _decompose(self, weight, norm):
        raise AssertionError("reached")


def test_a_folder_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        measure_point(TASK, Unreached(rank=1), measure=QUICK, save=tmp_path / "file")


def test_what_the_point_is_made_of_is_in_its_record():
    record = measure_point(
        TASK,
        GPTQ(bits=3),
        norm="diagonal",
        where=["*"],
        recovery=FineTune(epochs=1, learning_rate=1e-3),
        measure=QUICK,
        seed=3,
    )
    config = record["config"]
    assert config["method"]["_target_"] == "lowrank.decomposers.GPTQ"
    assert (record["norm"], config["norm"]["moment"]) == ("diagonal", "diagonal")
    assert record["recovery"] == record["dense_recovery"] == "FineTune"
    assert record["calibration"]
    assert (config["seed"], config["threads"], config["where"]["include"]) == (3, None, ["*"])
    other = measure_point(TASK, GPTQ(bits=3), norm="diagonal", measure=QUICK, seed=3)
    assert other["key"] != record["key"]


def test_how_far_a_recovery_took_the_dense_model_is_no_baseline_of_how_far_compression_does(
    tmp_path,
):
    """The one is from the dense model before the recovery, the other from the recovered one."""
    recovery = FineTune(epochs=1, learning_rate=1e-2)
    record = measure_point(TASK, TruncatedSVD(rank=4), measure=QUICK, recovery=recovery)
    distances = {"kl", "flipped"}
    assert distances <= record["compressed"].keys() and not distances & record["dense"].keys()
    assert not distances & record["standard_errors"]["dense"].keys()
    assert "flipped" in record["standard_errors"]["compressed"]
    assert not distances & record["standard_errors"]["change"].keys()
    assert record["dense_moved"].keys() == distances and record["dense_moved"]["kl"] > 0
    before = TASK.model()
    moved = copied(before).model
    recovery.recover(moved, TASK)
    outputs = evaluate(before, TASK).outputs
    assert record["dense_moved"].items() <= evaluate(moved, TASK, reference=outputs).metrics.items()
    found = outcomes.of_record(store.save(record, tmp_path))
    assert not distances & found.dense.keys() and "flipped" in found.compressed
    frame = store.load(tmp_path)
    assert frame["dense_moved_kl"][0] == record["dense_moved"]["kl"]
    assert dense_baseline(frame, "kl")[0] == 0.0


def test_a_config_of_a_sweep_gives_names_and_key():
    plain = measure_point(TASK, TruncatedSVD(rank=4), measure=QUICK)
    config = plain["config"] | {"method_name": "svd", "sweep": "mine"}
    named = measure_point(TASK, TruncatedSVD(rank=4), measure=QUICK, config=config)
    assert named["method"] == "svd" and named["key"] == store.key(config) != plain["key"]
    assert named["compressed"] == plain["compressed"]
    with pytest.raises(ValueError, match="config lacks recovery, measure, threads"):
        lacking = {name: config[name] for name in ("task", "seed")}
        measure_point(TASK, Uncompressed(), measure=QUICK, config=lacking)


def test_the_dense_model_is_made_once_for_the_points_of_one_task(monkeypatch):
    made, model = [], ImageClassification.model
    monkeypatch.setattr(ImageClassification, "model", lambda task: made.append(task) or model(task))
    dense.dense_model.cache_clear()
    dense.dense_baseline.cache_clear()
    for rank in (2, 3):
        measure_point(replace(TASK), TruncatedSVD(rank=rank), measure=QUICK)
    assert len(made) == 1
    measure_point(replace(TASK, seed=1), TruncatedSVD(rank=2), measure=QUICK)
    assert len(made) == 2


def test_hydra_is_not_needed():
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(['hydra', 'omegaconf', 'wandb'])\n"
        "sys.path[:0] = ['tests', 'tests/point']\n"
        "import test_measure_point as test_point\n"
        "task, method = test_point.TASK, test_point.Uncompressed()\n"
        "test_point.measure_point(task, method, measure=test_point.QUICK)\n"
        "assert not [name for name in sys.modules if name.startswith('experiments')]\n"
    )
    done = programs.run("-c", code, imported=("torch",))
    assert done.returncode == 0, done.stderr


class Plain(Decomposer):
    """Its own class, and no dataclass."""

    family = 3  # type: ignore[assignment]

    def _decompose(self, weight, norm):
        return Dense(weight.clone())


@dataclass(frozen=True)
class Endless(Decomposer):
    @property
    def level(self):
        return float("inf")

    def _decompose(self, weight, norm):
        return Dense(weight.clone())


@pytest.mark.parametrize(
    "changed, text",
    [
        ({"task": "digits"}, "task='digits' must be a Task, such as"),
        ({"method": "svd"}, "method='svd' must be a decomposer"),
        ({"norm": "fool"}, "fool"),
        ({"recovery": "tune"}, "recovery='tune' must be a Recovery"),
        ({"measure": "quick"}, "measure='quick' must be a MeasureSettings"),
        ({"values": "int8"}, "int8"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"seed": 2**32}, "seed=4294967296 must be a whole number from 0 to 4294967295"),
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"keep": "some", "save": "here"}, "keep='some' must be one of"),
        ({"keep": "best"}, "keep='best' has no effect without a folder: give save="),
        ({"method": Plain()}, "the family of Plain is 3: it must be a text that is not empty"),
        ({"method": Endless()}, "the level of Endless is inf: it must be a number"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_made(changed, text, monkeypatch):
    monkeypatch.setattr(ImageClassification, "model", None)
    arguments = {"task": TASK, "method": Uncompressed(), "measure": QUICK} | changed
    with pytest.raises(ValueError, match=text):
        measure_point(**arguments)


def test_objects_are_described_as_a_config_names_them():
    chain = Chain([TruncatedSVD(rank=4), Quantization(8)])
    found = described(chain, "method")
    assert found["_target_"] == "lowrank.decomposers.Chain"
    assert found["steps"][0]["_target_"] == "lowrank.decomposers.TruncatedSVD"
    assert (found["steps"][0]["rank"], found["steps"][1]["bits"]) == (4, 8)
    of = functools.partial(GPTQ, group_size=32)
    assert described(of, "of") == {
        "_target_": "lowrank.decomposers.GPTQ",
        "_partial_": True,
        "group_size": 32,
    }
    mix = MixedAllocation(grid(of, {"bits": [2, 3]}), Budget(ratio=4))
    assert [one["bits"] for one in described(mix, "method")["candidates"]] == [2, 3]
    assert described(CalibratedNorms("full"), "norm")["_target_"].startswith("lowrank.calibration.")
    with pytest.raises(ValueError, match=r"a\.1 is a object, which does not say how to make it"):
        described([1, object()], "a")


def test_what_is_described_makes_the_same_object_again():
    from hydra.utils import instantiate

    for one in (
        TASK,
        QUICK,
        Chain([TruncatedSVD(rank=4), Quantization(8)]),
        CalibratedNorms("full"),
    ):
        made = instantiate(described(one, "x"), _convert_="all")
        assert described(made, "x") == described(one, "x") and type(made) is type(one)


def test_the_model_is_kept_as_it_was_measured(tmp_path):
    method = Chain([TruncatedSVD(rank=4), Quantization(8)])
    plain = measure_point(TASK, method, measure=QUICK)
    record = measure_point(TASK, method, measure=QUICK, save=tmp_path / "models")
    assert "model_file" not in plain and record["key"] == plain["key"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == [record["model_file"]]
    model = lowrank.load(tmp_path / "models" / record["model_file"], TASK.model())
    found = evaluate(model, TASK).metrics
    assert {name: record["compressed"][name] for name in found} == found


def test_a_kept_model_goes_out_in_another_format_too(tmp_path):
    dense = format_named("dense")
    record = measure_point(TASK, TruncatedSVD(rank=4), measure=QUICK, save=tmp_path, export=dense)
    model_file, folder = record["model_file"], record["exported_folder"]
    assert folder == model_file.removesuffix("safetensors") + "dense"
    tensors = load_file(tmp_path / folder / "model.safetensors")
    assert record["exported_format"] == "dense"
    assert record["exported_bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert record["exported_bytes"] > record["compressed"]["bytes"]
    network = TASK.model()
    network.load_state_dict(tensors)
    loaded = lowrank.load(tmp_path / model_file, network)
    layers = [module for module in loaded.modules() if hasattr(module, "factorization")]
    assert record["exported_multiplied_out"] == len(layers) > 0
    x = TASK.example()[0]
    torch.testing.assert_close(network(x), loaded(x))
    store.save(record, tmp_path)
    row = store.load(tmp_path).iloc[0]
    assert row["exported_bytes"] == record["exported_bytes"]
    # Measured again without it, nothing of it stays.
    again = measure_point(TASK, TruncatedSVD(rank=4), measure=QUICK, save=tmp_path)
    assert again["key"] == record["key"] and "exported_format" not in again
    store.save(again, tmp_path)
    assert not (tmp_path / folder).exists() and (tmp_path / model_file).exists()
    with pytest.raises(ValueError, match="export has no effect without a folder"):
        measure_point(TASK, TruncatedSVD(rank=4), export=dense)


def test_the_best_model_is_kept_by_its_quality_on_the_validation_split(tmp_path):
    records = [
        measure_point(
            replace(TASK, seed=seed),
            TruncatedSVD(rank=4),
            measure=QUICK,
            save=tmp_path,
            keep="best",
        )
        for seed in range(3)
    ]
    plain = measure_point(replace(TASK, seed=2), TruncatedSVD(rank=4), measure=QUICK)
    assert "keep" not in plain and plain["compressed"] == records[2]["compressed"]
    for record in records:
        store.save(record, tmp_path)
    (path,) = tmp_path.glob("*-*.safetensors")
    order = sorted(records, key=lambda one: (-one["validation"]["top1"], one["key"]))
    assert path.name == order[0]["model_file"]
    task = replace(TASK, seed=order[0]["seed"])
    model = lowrank.load(path, task.model())
    found = evaluate(model, task, "validation").metrics
    assert found and found.items() <= order[0]["validation"].items()
    frame = store.load(tmp_path)
    assert sorted(frame["validation_top1"]) == sorted(r["validation"]["top1"] for r in records)


def test_a_record_has_validation_errors_and_what_was_chosen_on_which_split(tmp_path):
    record = measure_point(
        TASK, TruncatedSVD(rank=4), norm="full", recovery=Tune(epochs=1), measure=QUICK
    )
    quality = evaluate(TASK.model(), TASK, "validation").metrics
    assert record["validation"].keys() == quality.keys() | {"kl", "flipped"}
    protocol = record["protocol"]
    assert protocol["calibration"] == {"split": "calibration", "examples": 64}
    assert (protocol["validation"], protocol["test"]) == (143, 360)
    assert protocol["chosen_on"] == {"norm": "calibration", "recovery": "calibration"}
    plain = measure_point(TASK, TruncatedSVD(rank=4), measure=QUICK)
    assert plain["protocol"]["calibration"] is None and plain["protocol"]["chosen_on"] == {}
    trained = measure_point(TASK, TruncatedSVD(rank=4), recovery=FineTune(1, 0.001), measure=QUICK)
    assert trained["protocol"]["chosen_on"] == {"recovery": "train"}
    path = store.save(plain, tmp_path)
    found, row = outcomes.of_record(path), store.load(tmp_path).iloc[0]
    right = {part: getattr(found, part)["top1"] for part in ("dense", "compressed")}
    assert row["top1_se"] == pytest.approx(scipy.stats.sem(right["compressed"]))
    assert row["dense_top1_se"] == pytest.approx(scipy.stats.sem(right["dense"]))
    change = right["compressed"] - right["dense"]
    assert row["top1_change_se"] == pytest.approx(scipy.stats.sem(change))
    assert row["top1"] - row["dense_top1"] == pytest.approx(change.mean())
    assert row["validation_top1"] == plain["validation"]["top1"]
    assert plain["standard_errors"]["change"].keys() == {"top1", "top5", "loss"}


def test_validation_comes_before_the_test_split(monkeypatch):
    seen = []
    measures, evaluation = point_module.measures_of, point_module.evaluate
    monkeypatch.setattr(
        point_module, "evaluate", lambda *given: seen.append(given[2]) or evaluation(*given)
    )
    monkeypatch.setattr(
        point_module, "measures_of", lambda *given: seen.append("test") or measures(*given)
    )
    measure_point(TASK, TruncatedSVD(rank=3), measure=QUICK)
    assert seen == ["validation", "test"]


def test_texts_of_a_task_without_a_language_model_are_refused_before_the_work(monkeypatch):
    monkeypatch.setattr(type(TASK), "model", None)
    with pytest.raises(ValueError, match="has no language model to continue a text"):
        measure_point(TASK, TruncatedSVD(4), measure=MeasureSettings(generation=Generation()))
    with pytest.raises(ValueError, match="prompts"):
        Generation(prompts=0)


def test_what_other_tasks_share_is_on_record_where_something_was_trained(tmp_path):
    """Of adapters alone the base is shared, and it is the same bit for bit whatever was learnt."""
    found = []
    for seed in (0, 1):
        recovery = FineTune(1, 1e-2, scope="factorizations")
        task = replace(TASK, split_seed=seed)  # Other images to learn from.
        method = LoRA(rank=2, alpha=4)
        record = measure_point(task, method, measure=QUICK, recovery=recovery)
        sizes = record["compressed"]
        own, shared = (record["sharing"][f"{part}_bytes"] for part in ("own", "shared"))
        assert own + shared == sizes["bytes"] and own == sizes["trainable_bytes"]
        found.append(record)
        store.save(record, tmp_path)
    assert len({record["sharing"]["shared_hash"] for record in found}) == 1
    assert found[0]["compressed"]["loss"] != found[1]["compressed"]["loss"]
    row = store.load(tmp_path).iloc[0]
    assert row["sharing.shared_bytes"] == found[0]["sharing"]["shared_bytes"]
    whole = measure_point(TASK, LoRA(rank=2, alpha=4), measure=QUICK, recovery=FineTune(1, 1e-2))
    assert 0 < whole["sharing"]["shared_bytes"] < found[0]["sharing"]["shared_bytes"]
    assert measure_point(TASK, LoRA(rank=2, alpha=4), measure=QUICK)["sharing"] is None
