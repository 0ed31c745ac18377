"""Real values in 16 bits."""

import copy

import pytest
import torch
from torch import nn

from lowrank.allocation import (
    Budget,
    GlobalMagnitude,
    MixedAllocation,
    NormError,
    SharedBasis,
)
from lowrank.compression.compress import compress
from lowrank.decomposers import LoRA, MagnitudePruning, Quantization, TruncatedSVD, Uncompressed
from lowrank.factorizations import Half
from lowrank.measure import nbytes


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8)
    )


METHODS = {
    "one for all": TruncatedSVD(rank=4),
    "by name": {"0": TruncatedSVD(rank=4), "*": MagnitudePruning(0.5)},
    "global magnitude": GlobalMagnitude(sparsity=0.8),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_numbers_are_those_of_the_same_method_rounded(name):
    exact, rounded = (compress(network(), METHODS[name], values=v).model for v in (None, "float16"))
    for path in ("0", "2", "4"):
        forms = [m.get_submodule(path).factorization for m in (rounded, exact)]
        ours, theirs = (form.to_dense().detach() for form in forms)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3 * float(theirs.abs().max()))


def test_a_budget_counts_what_is_stored():
    """With values of half the size, twice as many fit."""
    candidates = [TruncatedSVD(rank=rank) for rank in range(1, 24)]
    found = {}
    for values in (None, "float16"):
        mix = MixedAllocation(candidates, Budget(ratio=4), NormError(), rivals=0)
        result = compress(network(), mix, values=values)
        assert nbytes(network()) / nbytes(result.model) >= 4
        assert result.allocation["spent"] == sum(layer.bytes for layer in result.layers)
        found[values] = result.allocation["loss"]
    assert found["float16"] < 0.8 * found[None]


def test_a_weight_that_is_kept_stays_exact():
    model = network()
    result = compress(model, {"0": Uncompressed(), "*": TruncatedSVD(rank=2)}, values="float16")
    assert torch.equal(result.model[0].factorization.to_dense(), model[0].weight)


def test_a_factor_that_layers_share_is_stored_once():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            basis = torch.randn(4, 32)
            self.query, self.key = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
            for layer in (self.query, self.key):
                layer.weight.data = torch.randn(32, 4) @ basis

    method = SharedBasis(groups=[["query", "key"]], compression_ratio=5)
    sizes = [nbytes(compress(Attention(), method, values=v).model) for v in (None, "float16")]
    assert sizes[0] == 2 * sizes[1]


def test_adapters_still_train():
    result = compress(
        network(), LoRA(rank=2, alpha=2, base=MagnitudePruning(0.5)), values="float16"
    )
    trained = [
        name for name, p in result.model.named_parameters() if p.requires_grad and "." in name
    ]
    assert sum("factorization" in name for name in trained) == 6
    forms = [m for m in result.model.modules() if isinstance(m, Half)]
    assert len(forms) == 3


def test_codes_have_none():
    model = network()
    sizes = [nbytes(compress(model, Quantization(4), values=v).model) for v in (None, "float16")]
    assert sizes[0] == sizes[1]


def test_the_note_of_a_layer_that_stays_dense_is_kept():
    layers = compress(network(), TruncatedSVD(rank=8), values="float16").layers
    assert layers[2].notes[0].startswith("kept dense: rank 8")


@pytest.mark.parametrize("values", ["float8", "half", torch.float16, 16, True])
def test_other_dtypes_are_refused(values):
    with pytest.raises(ValueError, match="must be one of .*'float16', 'bfloat16'"):
        compress(copy.deepcopy(network()), TruncatedSVD(rank=2), values=values)
