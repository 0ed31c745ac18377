"""Layers that read the same inputs share one basis: optimal, stored and counted once."""

import pytest
import torch
from torch import Tensor, nn

from lowrank.allocation import SharedBasis
from lowrank.allocation.shared_basis import divided
from lowrank.calibration import CalibratedNorms
from lowrank.compression.compress import compress
from lowrank.decomposers import TruncatedSVD
from lowrank.export import checkpoint
from lowrank.measure.size import nbytes, params
from lowrank.norms import IDENTITY

GROUPS = [["query", "key", "value"]]


class Attention(nn.Module):
    def __init__(self, rank: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        basis = torch.randn(rank, 24)
        for name in GROUPS[0]:
            layer = nn.Linear(24, 16)
            if rank:  # All rows of all three in one subspace.
                layer.weight.data = torch.randn(16, rank) @ basis
            setattr(self, name, layer)
        self.out = nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.query(x).sigmoid() * self.key(x) + self.value(x))


def inputs() -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(50, 24, generator=generator) @ torch.randn(24, 24, generator=generator),)]


CALIBRATED = {
    "identity": (None, None),
    "full": (CalibratedNorms("full"), inputs()),
    "diagonal": (CalibratedNorms("diagonal"), inputs()),
}


@pytest.mark.parametrize(("norm", "data"), CALIBRATED.values(), ids=CALIBRATED.keys())
def test_weights_of_one_subspace_come_back_at_the_bytes_of_one_basis(norm, data):
    model = Attention(rank=6)
    result = compress(model, SharedBasis(GROUPS, 2.6), "[qkv]*", norm=norm, data=data)
    assert [layer.relative_error < 1e-5 for layer in result.layers] == [True] * 3
    assert sum(layer.params for layer in result.layers) == 6 * (3 * 16 + 24)
    assert sum(layer.bytes for layer in result.layers) == 4 * 6 * (3 * 16 + 24)
    saved = sum(layer.dense_bytes - layer.bytes for layer in result.layers)
    assert nbytes(model) - nbytes(result.model) == saved
    assert params(model) - params(result.model) == saved // 4
    assert "shares its right factor with key, value" in " ".join(result.layers[0].notes)


def test_the_basis_is_the_nearest_of_its_rank():
    model = Attention(rank=7)
    with torch.no_grad():
        for name in GROUPS[0]:
            getattr(model, name).weight.add_(0.3 * torch.randn(16, 24))
    result = compress(model, SharedBasis(GROUPS, 2.6), "[qkv]*")
    stacked = torch.cat([getattr(model, name).weight.detach() for name in GROUPS[0]])
    found = torch.cat([getattr(result.model, name).weight[:] for name in GROUPS[0]])
    best = TruncatedSVD(6).decompose(stacked).to_dense()
    wanted = IDENTITY.relative_error(stacked, best)
    assert IDENTITY.relative_error(stacked, found) == pytest.approx(wanted, rel=1e-4)


def test_it_stays_one_tensor_in_the_file_and_when_it_is_loaded(tmp_path):
    model = Attention(rank=6)
    compact = compress(model, SharedBasis(GROUPS, 2.6), "[qkv]*").model
    checkpoint.save(compact, tmp_path / "model.safetensors")
    back = checkpoint.load(tmp_path / "model.safetensors", model)
    assert nbytes(back) == nbytes(compact) and params(back) == params(compact)
    assert back.query.factorization.factors[1].weight is back.key.factorization.factors[1].weight
    x = inputs()[0][0]
    assert torch.equal(back(x), compact(x))


def test_groups_of_flat_spectra_get_truncated_svds_with_a_note():
    model = Attention()
    torch.manual_seed(0)
    with torch.no_grad():  # Each of rank 2, in subspaces of their own.
        for name in GROUPS[0]:
            weight = torch.randn(16, 2) @ torch.randn(2, 24)
            getattr(model, name).weight.copy_(weight)
    result = compress(model, SharedBasis(GROUPS, 4), "[qkv]*")
    assert all("does not pay here" in " ".join(layer.notes) for layer in result.layers)
    assert max(layer.relative_error for layer in result.layers) < 1e-5


def test_layers_without_a_group_get_a_truncated_svd():
    result = compress(Attention(rank=6), SharedBasis(GROUPS, 2.6))
    assert result.layers[-1].name == "out"
    assert result.layers[-1].factorization == "LowRank 16→3→24"


def test_the_ranks_are_those_that_keep_most():
    energies = [torch.tensor([9.0, 4.0, 1.0]), torch.tensor([8.0, 6.0, 5.0])]
    assert divided(energies, [10, 10], 40) == ([1, 3], 28.0)
    assert divided(energies, [10, 10], 15)[1] < 0


class TestBadInput:
    def test_a_name_twice(self):
        with pytest.raises(ValueError, match="name a layer twice"):
            SharedBasis([["query", "key"], ["key", "value"]], 2)

    def test_a_ratio_that_is_out_of_reach(self):
        with pytest.raises(ValueError, match="out of reach for .*rank 1 gives 16"):
            compress(Attention(), SharedBasis(GROUPS, 30))

    def test_layers_of_different_inputs(self):
        with pytest.raises(ValueError, match="different input sizes share no basis"):
            compress(Attention(), SharedBasis([["query", "out"]], 2))
