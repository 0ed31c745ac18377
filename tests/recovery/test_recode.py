"""Deep Compression after pruning: values shared after training, then coded."""

from dataclasses import replace

import pytest
import torch
from made_tensors import tensor_bytes
from test_fine_tune import TASK

from lowrank import load, save
from lowrank.compression.compress import compress
from lowrank.decomposers import (
    Chain,
    CodebookQuantization,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
)
from lowrank.factorizations import Codebook, Dense, Sparse
from lowrank.point import measure_point
from lowrank.recovery import DecomposeLeaves, FineTune, InOrder, NoRecovery, Recode

TRAIN = FineTune(epochs=1, learning_rate=1e-3, batch_size=64)
SHARE = DecomposeLeaves(CodebookQuantization(4), {"fc2": CodebookQuantization(8)})
STEPS = {"code": Recode(), "centroids": TRAIN, "quantize": SHARE, "retrain": TRAIN}
DEEP = InOrder(STEPS, ["retrain", "quantize", "centroids", "code"])


def pruned(sparsity=0.8):
    return compress(TASK.model(), MagnitudePruning(sparsity)).model


def masks(model):
    return [(m.factorization.to_dense() != 0) for m in (model.fc1, model.fc2)]


def test_survivors_are_decomposed_by_the_name_of_their_layer():
    model = pruned()
    before = [m.clone() for m in masks(model)]
    found = SHARE.recover(model, TASK)
    assert [model.fc1.factorization.values.layout.bits for _ in "1"] == [4]
    assert model.fc2.factorization.values.layout.bits == 8
    assert found["decomposed"]["fc1"] == repr(model.fc1.factorization)
    assert all(torch.equal(a, b) for a, b in zip(before, masks(model), strict=True))


def test_it_is_what_a_chain_gives_where_nothing_was_trained_between():
    chained = compress(TASK.model(), Chain([MagnitudePruning(0.8), CodebookQuantization(4)])).model
    model = pruned()
    DecomposeLeaves(CodebookQuantization(4)).recover(model, TASK)
    assert torch.equal(model.fc1.factorization.to_dense(), chained.fc1.factorization.to_dense())


def test_frozen_leaves_stay_frozen_and_the_mode_is_kept():
    model = pruned().train()
    model.fc1.factorization.requires_grad_(False)
    SHARE.recover(model, TASK)
    assert not any(p.requires_grad for p in model.fc1.factorization.parameters())
    assert all(p.requires_grad for p in model.fc2.factorization.parameters())
    assert model.fc1.factorization.training and model.fc1.factorization.values.training


def test_a_dense_model_stays_as_it_is():
    dense = TASK.model()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    for step in (SHARE, Recode()):
        step.recover(dense, TASK)
    assert all(torch.equal(before[name], tensor) for name, tensor in dense.state_dict().items())


@pytest.mark.parametrize("coding", ["huffman", "ans", "fixed"])
def test_coding_keeps_the_outputs_and_saves_what_it_says(tmp_path, coding):
    model = pruned(0.92)
    SHARE.recover(model, TASK)
    batch = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)
    expected, before = model(batch), tensor_bytes(model)
    sizes = Recode(coding).recover(model, TASK)["coded"]
    assert torch.equal(model(batch), expected)
    assert tensor_bytes(model) < before
    first = model.fc1.factorization
    assert sizes["fc1"]["kept"] == int((first.to_dense() != 0).sum())
    # What every coding takes, whichever was asked for; the smaller parts are kept.
    assert first.nbytes <= sizes["fc1"][f"{coding}_bytes"]
    assert sizes["fc1"]["fixed_code_bytes"] == -(-4 * sizes["fc1"]["kept"] // 8)
    save(model, tmp_path / "m")
    assert torch.equal(load(tmp_path / "m", TASK.model())(batch), expected)


def test_all_of_deep_compression_in_a_record():
    record = measure_point(TASK, MagnitudePruning(0.9), recovery=DEEP)
    assert record["compressed"]["bytes"] < 0.2 * record["dense"]["bytes"]
    layer = record["layers"][0]
    assert "Codebook" in layer["factorization"] and layer["bytes"] * 8 == pytest.approx(
        layer["bits_per_weight"] * 64 * 32
    )
    saved = sum(layer["dense_bytes"] - layer["bytes"] for layer in record["layers"])
    assert record["dense"]["bytes"] - record["compressed"]["bytes"] == saved
    steps = record["recovered"]["steps"]
    # The centroids and the biases are all that is trained last.
    assert steps[2]["trained_params"] == 2**4 + 2**8 + 32 + 10
    # What each coding takes, with its tables and the codebook.
    assert layer["huffman_bytes"] > layer["huffman_code_bytes"] + layer["huffman_index_bytes"]
    assert layer["kept"] == 205 and layer["entries"] >= layer["kept"]
    assert layer["bytes"] <= min(layer[f"{c}_bytes"] for c in ("fixed", "huffman"))
    assert record["dense_recovery"] == "InOrder" and steps[3] == {}


def test_a_recovery_that_only_codes_counts_its_bytes():
    coded = measure_point(TASK, MagnitudePruning(0.9), recovery=Recode())
    plain = measure_point(TASK, MagnitudePruning(0.9), recovery=NoRecovery())
    assert coded["compressed"]["top1"] == plain["compressed"]["top1"]
    assert coded["layers"][0]["bytes"] < plain["layers"][0]["bytes"]
    assert not coded["tuned"] and coded["dense_recovery"] == "none"


def test_layers_that_share_a_factorization_share_what_is_made_of_it():
    model = pruned()
    model.again = model.fc1
    other = type(model.fc1)(model.fc1.factorization, model.fc1.bias)
    model.other = other
    SHARE.recover(model, TASK)
    Recode().recover(model, TASK)
    assert model.other.factorization is model.fc1.factorization


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: DecomposeLeaves("codebook"), "decomposer='codebook' must be"),
        (lambda: DecomposeLeaves(Quantization(4), [1]), r"by_name=\[1\] must be"),
        (lambda: DecomposeLeaves(Quantization(4), {"a": 3}), "the decomposer of 'a'=3 must be"),
        (
            lambda: replace(SHARE, by_name={"fc9": Quantization(4)}).check(TASK.model()),
            r"the patterns \['fc9'\] match no layer; the layers are \['fc1', 'fc2'\]",
        ),
        (lambda: Recode("zip"), "coding='zip' must be one of"),
        (lambda: Recode(gap_bits=9), "bits=9 does not exist"),
        (lambda: InOrder({}), "must be a list of at least one recovery"),
        (
            lambda: InOrder({"a": TRAIN, "b": SHARE}),
            "order=None must be each of the steps .'a', 'b'",
        ),
        (lambda: InOrder({"a": TRAIN}, ["a", "a"]), "must be each of the steps .'a'. once"),
        (lambda: InOrder([TRAIN], ["a"]), "must be None, for the steps have no names"),
        (
            lambda: replace(SHARE, by_name={"fc*": SHARE.decomposer, "*1": SHARE.decomposer}).check(
                TASK.model()
            ),
            r"the patterns \['fc\*', '\*1'\] match one layer, 'fc1'",
        ),
        (
            lambda: Recode().recover(compress(TASK.model(), Quantization(4)).model, TASK),
            "the model has neither codebooks nor pruned weights: nothing to code",
        ),
        (
            lambda: SHARE.recover(compress(TASK.model(), Quantization(4)).model, TASK),
            "layer 'fc1': Quantized .* has no dense leaf to decompose",
        ),
        (
            lambda: DecomposeLeaves(TruncatedSVD(9)).recover(pruned(), TASK),
            "layer 'fc1': rank=9 does not fit",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("order", [["retrain", "quantize"], ["retrain", "code"]])
def test_forms_that_do_not_suit_a_later_step_are_refused_before_an_earlier_one_trains(
    order, monkeypatch
):
    def fail(*_, **__):
        raise AssertionError("trained before the forms were checked")

    monkeypatch.setattr(FineTune, "recover", fail)
    steps = InOrder({name: STEPS[name] for name in order}, order)
    quantized = compress(TASK.model(), Quantization(4))
    for recover in (
        lambda: steps.recover(quantized.model, TASK),
        lambda: steps.change(quantized, TASK),
    ):
        with pytest.raises(ValueError, match="no dense leaf to decompose|nothing to code"):
            recover()


def test_a_sparse_matrix_of_dense_values_is_coded_too():
    model = pruned(0.95)
    assert Recode(gap_bits=4).recover(model, TASK) == {"coded": {}}
    form = model.fc1.factorization
    assert isinstance(form, Sparse) and isinstance(form.values, Dense)
    assert "gaps of 4 bits" in repr(form) and not any(
        isinstance(part, Codebook) for part in form.modules()
    )
