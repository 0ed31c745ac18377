"""One weight that cannot be compressed as asked does not end the work on the others."""

import pytest
import torch
from torch import nn

from lowrank.allocation import GlobalRank
from lowrank.calibration import CalibratedNorms
from lowrank.compression.compress import check, compress
from lowrank.decomposers import (
    GPTQ,
    BlockLowRank,
    CanonicalPolyadic,
    Chain,
    LoRA,
    LowRankPlusSparse,
    LowRankTimesSparse,
    MagnitudePruning,
    Monarch,
    Quantization,
    SparseFactors,
    TruncatedSVD,
    Tucker2,
)
from lowrank.decomposers.decomposer import Unfit
from lowrank.model.select import Select


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 3)
    )


# Out of reach of the smallest layer, (3, 32), and not of the others.
RATIOS = [
    TruncatedSVD(compression_ratio=4),
    MagnitudePruning(compression_ratio=60),
    MagnitudePruning(compression_ratio=4, pattern="8x16"),
    MagnitudePruning(sparsity=0.9, pattern="rows"),
    LowRankPlusSparse(compression_ratio=2.8, iterations=2),
    LowRankTimesSparse(compression_ratio=6, iterations=2),
    SparseFactors(compression_ratio=12, iterations=1),
    BlockLowRank(compression_ratio=5, blocks=(1, 2), iterations=1),
    Monarch(compression_ratio=6, rank=1, iterations=1),
    Chain([TruncatedSVD(compression_ratio=4), Quantization(bits=8)]),
    LoRA(rank=1, alpha=1, base=TruncatedSVD(compression_ratio=4)),
]
RANKS = [
    TruncatedSVD(rank=8),
    LoRA(rank=8, alpha=8),
    LowRankPlusSparse(rank=8, sparsity=0.9, iterations=2),
    LowRankTimesSparse(rank=8, iterations=2),
    Chain([TruncatedSVD(rank=8), Quantization(bits=8)]),
    Monarch(blocks=(8, 8), iterations=1),
]


def named(method) -> str:
    return repr(method)[:60]


@pytest.mark.parametrize("method", RATIOS, ids=named)
def test_a_ratio_out_of_reach_of_one_layer_is_the_nearest_that_it_can_have(method):
    result = compress(classifier(), method)
    notes = {layer.name: " ".join(layer.notes) for layer in result.layers}
    assert list(notes) == ["0", "2", "4"] and result.left == []
    assert notes["4"].count("at its nearest level") == 1
    assert "nearest level" not in notes["0"] + notes["2"]
    assert "1 at the nearest level" in result.summary()


@pytest.mark.parametrize("method", RATIOS, ids=named)
def test_the_nearest_level_is_the_largest_that_is_not_refused(method):
    weight = classifier()[4].weight.detach()
    with pytest.raises(
        Unfit, match="out of reach|keeps none|no .* columns|singular value"
    ) as caught:
        method.decompose(weight)
    nearest = caught.value.nearest
    assert nearest is not None and type(nearest) is type(method)
    nearest.decompose(weight)
    ratio = getattr(nearest, "compression_ratio", None)
    if ratio is not None:
        with pytest.raises(Unfit):
            type(method)(**{**vars(nearest), "compression_ratio": ratio * 1.01}).decompose(weight)


@pytest.mark.parametrize("method", RANKS, ids=named)
def test_a_rank_above_the_sides_of_one_layer_leaves_it_as_it_is(method):
    model = classifier()
    result = compress(model, method)
    assert [layer.name for layer in result.layers] == ["0", "2"]
    ((name, reason),) = result.left
    assert name == "4" and "layer '4': " in reason and "do" in reason
    assert result.summary().endswith("1 left as they are")
    assert type(result.model[4]) is nn.Linear
    assert torch.equal(result.model[4].weight, model[4].weight)
    assert result.model[4].weight.data_ptr() != model[4].weight.data_ptr()


# How much blocks of several weights need depends on the numbers in them.
BY_SHAPE = [m for m in RATIOS if not isinstance(m, BlockLowRank) and "8x16" not in repr(m)]


@pytest.mark.parametrize("method", [*BY_SHAPE, *RANKS], ids=named)
def test_what_must_be_as_asked_raises_before_any_layer_is_decomposed(monkeypatch, method):
    def never(*_):
        raise AssertionError("a layer was decomposed")

    monkeypatch.setattr("lowrank.model.sites.Site.decompose", never)
    for options in (
        {"strict": True},
        {"where": "4"},
        {"where": ["0", "4"]},
        {"where": Select(include="4")},
    ):
        with pytest.raises(ValueError, match="layer '4': "):
            compress(classifier(), method, **options)
    for mapping in ({"0": Quantization(8), "4": method}, {"[02]": Quantization(8), "4*": method}):
        with pytest.raises(ValueError, match="layer '4': "):
            compress(classifier(), mapping)


def test_where_no_layer_of_a_rule_can_be_compressed_it_raises():
    with pytest.raises(ValueError, match="layer '0': rank=100 does not fit"):
        compress(classifier(), TruncatedSVD(rank=100))
    with pytest.raises(ValueError, match="layer '2': rank=40 does not fit"):
        compress(classifier(), {"0": Quantization(8), "[24]": TruncatedSVD(rank=40)})


def test_an_unlucky_layer_found_on_the_way_is_left_too():
    """Scales below the smallest of float16 are known from the numbers only."""
    model = classifier()
    with torch.no_grad():
        model[2].weight.mul_(1e-7)
    result = compress(model, Quantization(bits=8, scale_dtype="float16"))
    assert [layer.name for layer in result.layers] == ["0", "4"]
    assert [name for name, _ in result.left] == ["2"]
    assert torch.equal(result.model[2].weight, model[2].weight)
    with pytest.raises(ValueError, match="layer '2': "):
        compress(model, Quantization(bits=8, scale_dtype="float16"), strict=True)


def test_tied_weights_that_are_left_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.body = nn.Embedding(6, 40), nn.Linear(40, 40)
            self.head = nn.Linear(40, 6, bias=False)
            self.head.weight = self.table.weight

    result = compress(Tied(), TruncatedSVD(rank=10))
    assert [name for name, _ in result.left] == ["table"]
    assert result.model.head.weight is result.model.table.weight


def test_calibrated_in_sequence_a_layer_that_is_left_feeds_the_next():
    model, data = classifier(), [torch.randn(32, 64)]
    with torch.no_grad():
        model[2].weight.mul_(1e-7)
    norm = CalibratedNorms("full", mode="sequential")
    result = compress(model, GPTQ(bits=4, scale_dtype="float16"), norm=norm, data=data)
    assert [layer.name for layer in result.layers] == ["0", "4"]
    assert [name for name, _ in result.left] == ["2"]


def test_kernels_take_the_nearest_level_too():
    model = nn.Sequential(nn.Conv2d(4, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 2, 3))
    for method in (
        Tucker2(compression_ratio=14),
        CanonicalPolyadic(compression_ratio=16, iterations=2),
    ):
        layers = compress(model, method).layers
        nearest = ["nearest level" in " ".join(layer.notes) for layer in layers]
        assert nearest in ([False, False, True], [True, False, True])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_check_needs_no_weights(device):
    with torch.device(device):
        model = classifier()
    check(model, TruncatedSVD(rank=8))
    check(model, GPTQ(bits=4), norm="full")
    with pytest.raises(ValueError, match="layer '0': rank=100"):
        check(model, TruncatedSVD(rank=100))
    with pytest.raises(ValueError, match="layer '4': rank=8"):
        check(model, TruncatedSVD(rank=8), strict=True)
    with pytest.raises(ValueError, match="compression_ratio=16 is out of reach"):
        check(model, GlobalRank(compression_ratio=16))
    with pytest.raises(ValueError, match="cannot approximate in the norm Full"):
        check(model, MagnitudePruning(0.5), norm="full")


def test_the_share_of_the_parameters_that_was_compressed():
    model = classifier()
    total = sum(p.numel() for p in model.parameters())
    result = compress(model, TruncatedSVD(rank=8))
    assert result.coverage == pytest.approx((64 * 48 + 48 * 32) / total)
    # What would not be smaller is kept dense, and not compressed.
    assert compress(model, TruncatedSVD(rank=31), where=["0", "2"]).coverage == 0
