import copy
import json
import struct

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import MagnitudePruning, Quantization, TruncatedSVD
from lowrank.export.checkpoint import load, save
from lowrank.factorizations import BlockGrid, Dense, Layout, Product, Quantized, Scaled, Sparse, Sum
from lowrank.measure import body_bytes, nbytes, params, trainable_params
from lowrank.measure.size import stored_dtype, trainable_bytes
from lowrank.model.factorized import FactorizedLinear

THIRD = 1 / 3  # Needs all bits of any dtype.


class Holder(nn.Module):
    """Any modules side by side; forward is the first one's."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts[0](x)


def dense(out: int, columns: int) -> Dense:
    return Dense(torch.full((out, columns), THIRD))


def quantized(out: int, columns: int) -> Quantized:
    """2 bits for each weight, a float32 scale for each row."""
    layout = Layout((out, columns), bits=2, group_size=columns)
    codes, scale = torch.ones(out, columns, dtype=torch.uint8), torch.full((out,), THIRD)
    return Quantized(layout, codes, scale)


def sparse(out: int, columns: int, nonzeros: int) -> Sparse:
    kept = torch.arange(out * columns).view(out, columns) < nonzeros
    return Sparse.from_dense(torch.full((out, columns), THIRD), kept)


def sparse_and_quantized() -> Sparse:
    return Sparse(BlockGrid((4, 8)), torch.arange(32).view(4, 8) < 9, quantized(1, 9))


def tied() -> nn.Module:
    model = Holder(nn.Embedding(10, 4), nn.Linear(4, 10), nn.BatchNorm1d(10))
    model.parts[1].weight = model.parts[0].weight
    return model


def low_rank(out: int, rank: int, columns: int) -> Product:
    return Product(dense(out, rank), dense(rank, columns))


def shared_factor() -> nn.Module:
    right = dense(2, 5)
    first, second = (Product(dense(out, 2), right) for out in (6, 7))
    return Holder(FactorizedLinear(first, None), FactorizedLinear(second, None))


MODELS = {
    "linear": lambda: nn.Linear(5, 3),
    "half precision": lambda: nn.Linear(5, 3).bfloat16(),
    "tied": tied,
    "batch norm": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
    "low rank": lambda: FactorizedLinear(low_rank(6, 2, 5), nn.Parameter(torch.ones(6))),
    "shared factor": shared_factor,
    "quantized": lambda: FactorizedLinear(quantized(4, 8), None),
    "sparse": lambda: FactorizedLinear(sparse(4, 8, 9), None),
    "sparse and quantized": lambda: FactorizedLinear(sparse_and_quantized(), None),
}


@pytest.mark.parametrize("name", MODELS)
def test_bytes_are_those_of_the_safetensors_file_less_its_header(name, tmp_path):
    model = MODELS[name]()
    save(model, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    assert json.loads(content[8 : 8 + header])
    assert nbytes(model) == len(content) - 8 - header


def test_bytes_by_hand():
    assert nbytes(nn.Linear(5, 3)) == 4 * (15 + 3)
    # 2 · 1 · 9 + 2 of the convolution, 4 · 2 of BatchNorm, all 0 or 1, and its int64 count.
    assert nbytes(MODELS["batch norm"]()) == 4 * 20 + 2 * 8 + 8
    assert nbytes(tied()) == 4 * (40 + 10) + 2 * (4 * 10) + 8
    assert nbytes(quantized(4, 8)) == 8 + 4 * 4
    # A bit for each position; the mask that follows from it is not stored.
    assert nbytes(sparse(4, 8, 9)) == 4 + 4 * 9


def test_parts_of_one_storage_are_different_tensors():
    model = Holder()
    whole = torch.full((4, 4), THIRD)
    model.upper, model.lower = nn.Parameter(whole[:2]), nn.Parameter(whole[2:])
    assert nbytes(model) == 64
    assert params(model) == trainable_params(model) == 16


def test_params_of_plain_models_are_their_parameters_once():
    assert params(nn.Linear(5, 3)) == 18
    assert params(tied()) == 40 + 10 + 20
    # Running statistics take bytes but are not learned.
    assert params(MODELS["batch norm"]()) == 20 + 4


def test_rank_100_of_a_1000_by_1000_weight_is_five_times_fewer_params_not_ten():
    assert params(low_rank(1000, 100, 1000)) == 200_000


def test_params_of_factorizations_are_those_of_their_leaves():
    base, update = Dense(torch.ones(6, 5)), Scaled(low_rank(6, 2, 5), 0.5)
    assert params(FactorizedLinear(Sum(base, update), nn.Parameter(torch.ones(6)))) == 30 + 22 + 6
    assert params(FactorizedLinear(quantized(4, 8), None)) == 32
    assert params(FactorizedLinear(sparse(4, 8, 9), None)) == 9
    assert params(shared_factor()) == 12 + 10 + 14


def test_a_leaf_inside_a_leaf_is_not_counted_again():
    assert params(Holder(sparse_and_quantized(), nn.Linear(2, 1))) == 9 + 3


def test_a_factorization_in_two_places_counts_once():
    factorization = low_rank(6, 2, 6)
    model = Holder(FactorizedLinear(factorization, None), FactorizedLinear(factorization, None))
    assert params(model) == trainable_params(model) == 24
    assert nbytes(model) == 96


def test_only_what_requires_a_gradient_is_trainable():
    base, update = Dense(torch.ones(6, 5)), low_rank(6, 2, 5)
    base.requires_grad_(False)
    model = FactorizedLinear(Sum(base, update), None)
    assert trainable_params(model) == 22
    assert params(model) == 52
    assert trainable_params(tied()) == 70


class Positions(nn.Embedding):
    """A table that no rule knows, because its forward is its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.arange(x.shape[-1]))


def language_model(is_tied: bool) -> nn.Module:
    """Body: 2 · 4 · 4 weights and 4 biases; outside: tables of 10 and 3 rows, a head of 10."""
    model = nn.Sequential(
        nn.Embedding(10, 4), Positions(3, 4), nn.Linear(4, 4), nn.Linear(4, 4, False),
        nn.Linear(4, 10),
    )  # fmt: skip
    if is_tied:
        model[4].weight = model[0].weight
    return model


@pytest.mark.parametrize("is_tied", [False, True])
def test_the_body_is_without_tables_and_head_whatever_became_of_them(is_tied):
    model = language_model(is_tied)
    assert body_bytes(model) == 4 * (32 + 4)
    everything = compress(model, Quantization(8)).model
    blocks = compress(model, Quantization(8), where=["2", "3"]).model
    # A byte for each weight, a scale of two bytes for each row.
    assert body_bytes(everything) == body_bytes(blocks) == 2 * (16 + 4 * 2) + 4 * 4
    table = compress(model, TruncatedSVD(rank=1), where="0").model
    assert body_bytes(table) == body_bytes(model)


def test_a_model_of_one_weight_has_no_body():
    assert body_bytes(nn.Linear(5, 3)) == body_bytes(nn.Embedding(5, 3)) == 0


def test_numbers_of_16_bits_count_so_whatever_dtype_they_are_loaded_in(tmp_path):
    torch.manual_seed(0)
    published = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 20)).half()
    size = nbytes(published)
    assert size == 2 * (40 * 30 + 30 + 30 * 20 + 20)
    for dtype in (torch.float32, torch.float64):
        model = copy.deepcopy(published).to(dtype)
        assert nbytes(model) == size == body_bytes(nn.Sequential(model, nn.Linear(1, 1)))
        assert stored_dtype(model) == "float16" and trainable_bytes(model) == size
        save(model, tmp_path / "m")
        loaded = load(tmp_path / "m", copy.deepcopy(model))
        state, own = loaded.state_dict(), model.state_dict()
        assert all(t.dtype == dtype and torch.equal(t, own[n]) for n, t in state.items())


def test_a_compression_is_compared_with_what_was_published():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, bias=False)).half().float()
    layer = compress(model, TruncatedSVD(rank=8)).layers[0]
    # The factors are new numbers, of 32 bits unless something is done about it.
    assert (layer.dense_bytes, layer.bytes) == (2 * 64 * 64, 4 * 8 * 128)
    pruned = compress(model, MagnitudePruning(compression_ratio=4)).layers[0]
    # What is kept has the bits that it had: index of 1 bit each, then values of 2 bytes.
    assert pruned.bytes <= 64 * 64 / 2 < pruned.bytes + 4
    kept = compress(model, MagnitudePruning(0.5)).model
    assert nbytes(kept) == 64 * 64 / 8 + 2 * 64 * 64 / 2
    half = compress(model, TruncatedSVD(rank=8), values="float16").layers[0]
    assert half.bytes == 2 * 8 * 128


@pytest.mark.parametrize(
    ("dtypes", "name"),
    [
        ((torch.float32, torch.float32), "float32"),
        ((torch.float16, torch.float16), "float16"),
        ((torch.float32, torch.float16), "float32+float16"),
        ((torch.bfloat16, torch.float64), "float64+bfloat16"),
    ],
)
def test_a_model_names_what_it_is_stored_in(dtypes, name):
    torch.manual_seed(0)
    layers = [nn.Linear(50, 50, dtype=torch.float64).to(d).double() for d in dtypes]
    assert stored_dtype(nn.Sequential(*layers, nn.BatchNorm1d(3))) == name


def test_memory_in_several_layouts_counts_once():
    model = Holder(nn.Linear(6, 4), nn.Linear(4, 6), nn.Linear(6, 2))
    model.parts[1].weight = nn.Parameter(model.parts[0].weight.T)
    model.parts[2].weight = nn.Parameter(model.parts[0].weight[1:3])
    assert nbytes(model) == 4 * (24 + 4 + 6 + 2) == 4 * params(model) == trainable_bytes(model)
    assert trainable_params(model) == params(model)
    # The last weight is a part of the first, which is left out with it.
    assert body_bytes(model) == 4 * (4 + 6)


def test_models_without_memory_have_their_bytes_too():
    with torch.device("meta"):
        assert nbytes(nn.Sequential(nn.Linear(5, 3), nn.Linear(5, 3))) == 2 * 4 * 18
        assert nbytes(tied()) == 4 * (40 + 10 + 4 * 10) + 8


def test_a_leaf_that_a_form_has_twice_counts_once():
    twice = dense(6, 6)
    form = Sum(Product(twice, twice), dense(6, 6))
    assert form.nbytes == nbytes(form) == 2 * 36 * 4
