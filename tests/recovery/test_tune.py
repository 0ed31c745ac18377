"""Light tuning toward the dense model: nearer on examples held out, and not a byte more."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from lowrank.compression.compress import compress
from lowrank.decomposers import HQQ, DoRA, LoRA, Quantization, SharedLoRA, TruncatedSVD
from lowrank.export import checkpoint
from lowrank.factorizations import Quantized
from lowrank.measure.size import nbytes
from lowrank.recovery import BiasCorrection, FineTune, InOrder, NoRecovery, Tune
from lowrank.tasks import Digits, ImageClassification, Trained, Training

TASK = ImageClassification(
    name="digits",
    architecture="cnn",
    source=Digits(),
    builder="lowrank.tasks.networks.convolutional:small_cnn",
    weights=Trained(Training(epochs=3, learning_rate=3e-3, batch_size=64)),
    validation_size=180,
    calibration_size=128,
)
TUNE = Tune(epochs=3, learning_rate=0.01, batch_size=16)
CODES = Tune(epochs=3, code_rate=0.03, batch_size=16, parts=("codes",))


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("LOWRANK_CACHE", str(tmp_path_factory.mktemp("weights")))
    yield TASK.model()
    patch.undo()


@pytest.fixture
def task(dense, monkeypatch):
    """The task with its model at hand, and a record of the splits that are asked for."""
    asked = []
    split = ImageClassification.split

    def recorded(self, name):
        asked.append(name)
        return split(self, name)

    monkeypatch.setattr(ImageClassification, "model", lambda self: copy.deepcopy(dense))
    monkeypatch.setattr(ImageClassification, "split", recorded)
    yield TASK
    assert set(asked) <= {"calibration", "train"}


def numbers(model):
    return {name: number.clone() for name, number in model.state_dict().items()}


def changed(model, before):
    return {name for name, now in model.state_dict().items() if not torch.equal(now, before[name])}


def distance(model, dense, inputs):
    with torch.no_grad():
        p, q = dense(inputs).double().softmax(1), model(inputs).double().softmax(1)
    return float((p * (p / q).log()).sum(1).mean())


def test_it_comes_nearer_on_examples_that_it_did_not_see(task, dense):
    model = compress(dense, Quantization(2, group_size=16)).model
    inputs = next(task.split("train").batches(2000)).only
    unseen, before = inputs[128:], numbers(model)
    far = distance(model, dense, unseen)
    record = TUNE.recover(model, task)
    assert distance(model, dense, unseen) < 0.7 * far
    assert record["distances"][record["kept_epoch"]] == min(record["distances"])
    assert (record["examples"], record["held_out_examples"], record["steps"]) == (96, 32, 18)
    for name, now in model.state_dict().items():
        assert now.dtype == before[name].dtype and now.shape == before[name].shape
    moved = changed(model, before)
    assert {name.rpartition(".")[2] for name in moved} <= {"scale", "weight", "bias"}
    assert any(name.endswith("factorization.scale") for name in moved)
    assert record["tuned_params"] == sum(
        n.numel() for name, n in before.items() if name.endswith(("scale", "weight", "bias"))
    )


@pytest.mark.parametrize("tune", [TUNE, CODES])
def test_what_is_stored_is_what_was_tuned(task, dense, tmp_path, tune):
    model = compress(dense, Quantization(2, group_size=16)).model
    size = nbytes(model)
    tune.recover(model, task)
    assert nbytes(model) == size
    checkpoint.save(model, tmp_path / "tuned.safetensors")
    inputs = next(task.split("calibration").batches(50)).only
    with torch.no_grad():
        loaded = checkpoint.load(tmp_path / "tuned.safetensors", dense)
        assert torch.equal(loaded(inputs), model(inputs))
    assert not any(b.requires_grad for b in model.buffers())


def test_scales_that_were_made_wrong_are_made_right(task, dense):
    model = compress(dense, Quantization(8, group_size="tensor", scale_dtype="float32")).model
    forms = [module for module in model.modules() if isinstance(module, Quantized)]
    wanted = [form.scale.clone() for form in forms]
    with torch.no_grad():
        for form in forms:
            form.scale.mul_(1.1)
    replace(TUNE, epochs=30, learning_rate=0.01, parts=("scales",)).recover(model, task)
    for form, scale in zip(forms, wanted, strict=True):
        assert float((form.scale / scale - 1).abs()) < 0.03


@pytest.mark.parametrize(
    "parts, ends",
    [
        (("scales",), {"factorization.scale", "factorization.zero"}),
        (("norms",), {"bn1.weight", "bn2.weight"}),
        (("biases",), {"bias"}),
    ],
)
def test_only_the_chosen_parts_change(task, dense, parts, ends):
    model = compress(dense, HQQ(3, group_size=16)).model
    before = numbers(model)
    replace(TUNE, learning_rate=0.003, parts=parts).recover(model, task)
    moved = changed(model, before)
    assert moved and all(name.endswith(tuple(ends)) for name in moved)
    assert all(any(name.endswith(end) for name in moved) for end in ends)


def test_values_of_factors_are_tuned_where_chosen(task, dense):
    low = compress(dense, TruncatedSVD(3)).model
    before = numbers(low)
    record = replace(TUNE, epochs=10, parts=("values",)).recover(low, task)
    assert changed(low, before) == {n for n in before if ".factorization." in n}
    assert record["distances"][-1] < 0.7 * record["distances"][0]
    codes = compress(dense, Quantization(3), where="fc1").model
    with pytest.raises(ValueError, match=r"none of parts=\['values'\] to be trained"):
        replace(TUNE, parts=("values",)).recover(codes, task)


@pytest.mark.parametrize("zero_point", [True, False])
def test_codes_that_are_tuned_come_nearer_and_stay_within_their_bits(task, dense, zero_point):
    method = Quantization(3, group_size=16, symmetric=not zero_point)
    model = compress(dense, method).model
    before, size = numbers(model), nbytes(model)
    record = replace(CODES, epochs=30).recover(model, task)
    assert record["distances"][record["kept_epoch"]] < 0.5 * record["distances"][0]
    moved = changed(model, before)
    assert moved and all(name.endswith("factorization.codes") for name in moved)
    assert all(now.dtype == before[name].dtype for name, now in model.state_dict().items())
    assert nbytes(model) == size
    codes = sum(form.params for form in model.modules() if isinstance(form, Quantized))
    assert record["tuned_params"] == codes
    # What is stored, and no longer the stand-ins, is as near as it was found to be.
    batches = [batch.only for batch in task.split("calibration").batches(16, task.seed)]
    held_out = torch.cat(batches[: record["held_out_examples"] // 16])
    kept = record["distances"][record["kept_epoch"]]
    assert distance(model, dense, held_out) == pytest.approx(kept, rel=1e-3)


def test_codes_move_at_their_own_rate(task, dense):
    model = compress(dense, Quantization(3, group_size=16)).model
    before = numbers(model)
    record = replace(CODES, epochs=30, code_rate=1e-6).recover(model, task)
    assert changed(model, before) == set() and record["kept_epoch"] == 0


def test_what_does_not_help_is_not_taken_and_said(task, dense):
    model = compress(dense, Quantization(3, group_size=16)).model
    before = numbers(model)
    record = replace(TUNE, epochs=1, learning_rate=1.0).recover(model, task)
    assert record["kept_epoch"] == 0 and "not tuned" in record["note"]
    assert record["distances"][1] > record["distances"][0]
    assert changed(model, before) == set()


def test_the_dense_model_stays_as_it_is(task, dense):
    model = copy.deepcopy(dense)
    assert "not tuned" in TUNE.recover(model, task)["note"]
    assert changed(model, numbers(dense)) == set()
    assert TUNE.tunes and not TUNE.changes_dense
    assert FineTune(1, 0.1).changes_dense and not NoRecovery().changes_dense


def test_the_same_again_and_the_model_comes_back_in_its_mode(task, dense):
    first = compress(dense, Quantization(2, group_size=16)).model.train()
    second = copy.deepcopy(first)
    told = []
    records = [
        TUNE.recover(first, task, lambda done, total, loss: told.append((done, total, loss))),
        TUNE.recover(second, task),
    ]
    assert all(record.pop("step_s") > 0 for record in records)
    assert records[0] == records[1] and changed(first, numbers(second)) == set()
    assert told == [(e, 3, records[0]["distances"][e]) for e in (1, 2, 3)]
    assert all(module.training for module in first.modules())


def test_frozen_parameters_stay(task, dense):
    model = compress(dense, Quantization(2, group_size=16)).model
    model.bn1.requires_grad_(False)
    before = numbers(model)
    TUNE.recover(model, task)
    assert not any(name.startswith("bn1.") for name in changed(model, before))


BASE = Quantization(2, group_size=16)
OVER = {"QLoRA": LoRA(2, 4, base=BASE), "LoftQ": LoRA(2, 4, base=BASE, init="residual")}
OVER |= {"DoRA": DoRA(OVER["QLoRA"]), "shared": SharedLoRA(2, 4, base=BASE)}


@pytest.mark.parametrize("adapter", OVER.values(), ids=OVER.keys())
def test_the_frozen_base_of_an_adapter_stays(task, dense, adapter):
    model = compress(dense, adapter).model
    before = numbers(model)
    Tune(2, 0.01, batch_size=16, parts=("scales", "codes", "norms", "values")).recover(model, task)
    moved = changed(model, before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert moved and moved <= trained


def test_where_only_frozen_bases_could_be_tuned_nothing_is(task, dense):
    model = compress(dense, OVER["QLoRA"]).model
    with pytest.raises(ValueError, match=r"none of parts=\['scales'\].*the base of an adapter"):
        replace(TUNE, parts=("scales",)).recover(model, task)


def test_a_distance_that_is_nan_ends_the_run_and_leaves_buffers_in_place(task, dense):
    model = compress(dense, Quantization(2, group_size=16)).model
    with torch.no_grad():
        model.bn1.bias[0] = math.nan
    with pytest.raises(FloatingPointError, match="distance to the dense model became nan"):
        TUNE.recover(model, task)
    assert all(m.scale.dtype == torch.float16 for m in model.modules() if isinstance(m, Quantized))


def test_recoveries_in_order(task, dense):
    model = compress(dense, Quantization(2, group_size=16)).model
    one_by_one = copy.deepcopy(model)
    both = InOrder([BiasCorrection(), TUNE])
    record = both.recover(model, task)
    expected = [step.recover(one_by_one, task) for step in both.steps]
    assert record["steps"][1].pop("step_s") > 0 and expected[1].pop("step_s") > 0
    assert record["steps"] == expected
    assert changed(model, numbers(one_by_one)) == set()
    assert both.tunes and not both.changes_dense
    assert InOrder([FineTune(1, 0.1), TUNE]).changes_dense
    with pytest.raises(ValueError, match="at least one recovery"):
        InOrder([])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"learning_rate": math.inf}, "learning_rate=inf must be above 0 and finite"),
        ({"code_rate": 0.0}, "code_rate=0.0 must be above 0"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        (
            {"parts": ()},
            r"parts=\(\) must be a list of some of scales, codes, norms, biases, values",
        ),
        ({"parts": ("masks",)}, "parts='masks' must be one of .*'scales', 'codes', 'norms'"),
        ({"source": "test"}, "source='test' must be one of .*'calibration', 'train'"),
        ({"batch_size": 2.5}, "batch_size=2.5 must be .* an integer"),
        ({"code_rate": 0.1}, "code_rate=0.1 has no effect without codes"),
        (
            {"parts": ["codes"], "learning_rate": 0.1},
            r"learning_rate=0.1 has no effect on parts=\['codes'\]",
        ),
        ({"examples": 1}, "examples=1 must be at least 2"),
        ({"held_out": 1.0}, r"held_out=1.0 must lie in \(0, 1\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Tune(**options)


def test_examples_that_do_not_fit_are_known_from_the_splits(task):
    fitting = [TUNE, BiasCorrection(), InOrder([BiasCorrection(128), TUNE])]
    for recovery in fitting:
        recovery.check_data(task)
    with pytest.raises(ValueError, match="examples=129 are more than the 128 of the calibration"):
        InOrder([TUNE, BiasCorrection(129)]).check_data(task)
    with pytest.raises(ValueError, match="examples=129 are more than the 128 of the calibration"):
        replace(TUNE, examples=129).check_data(task)
    with pytest.raises(ValueError, match="are 1 batches of batch_size=500, .* leaves none"):
        replace(TUNE, batch_size=500).check_data(task)


def test_examples_that_do_not_fit(task, dense):
    model = compress(dense, Quantization(2)).model
    with pytest.raises(ValueError, match="examples=129 are more than the 128 of the calibration"):
        replace(TUNE, examples=129).recover(model, task)
    with pytest.raises(ValueError, match="are 1 batches of batch_size=500, .* leaves none"):
        replace(TUNE, batch_size=500).recover(model, task)
