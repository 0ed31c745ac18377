"""What every decomposer and every factorization must keep: one table, all of the contract.

A new decomposer is a new row in `ROWS`; the test fails as long as an exported class has none.
"""

import copy
import dataclasses
import json
from dataclasses import dataclass, field

import pytest
import torch
from contracts import exported
from made_forms import AsRead
from made_tensors import random_by_sum as random
from made_tensors import tensor_bytes
from safetensors.torch import load, save
from torch import Tensor

import lowrank.decomposers as decomposers
import lowrank.factorizations as factorizations
import lowrank.measure as measure
from lowrank.approximation.weight_checks import check_weight
from lowrank.decomposers import (
    ALPS,
    AWQ,
    GPTQ,
    HQQ,
    AlternatingSum,
    BlockLowRank,
    CanonicalPolyadic,
    Chain,
    CodebookQuantization,
    Decomposer,
    DoRA,
    EntropyCodedQuantization,
    EntropyCoding,
    HalfPrecision,
    LoRA,
    LoRAXS,
    LowRankPlusSparse,
    LowRankTimesSparse,
    MagnitudePruning,
    Monarch,
    PruneAndQuantize,
    Quantization,
    QuantizedPlusLowRank,
    RandomPruning,
    RobustPCA,
    SharedLoRA,
    SparseFactors,
    SparseGPT,
    TruncatedSVD,
    Tucker2,
    Uncompressed,
    VeRA,
)
from lowrank.factorizations import (
    BlockDiagonal,
    ChannelProduct,
    Codebook,
    Dense,
    DirectSum,
    EntropyCoded,
    Factorization,
    Half,
    NormalizedRows,
    PermutedProduct,
    Product,
    Quantized,
    ReorderedColumns,
    Scaled,
    ScaledColumns,
    ScaledLevels,
    ScaledRows,
    Sparse,
    Sum,
    rebuild,
)
from lowrank.factorizations.operations import Convolve, Lookup, Multiply
from lowrank.norms import IDENTITY, Diagonal, Full, Norm

OUT, INNER = 24, 36  # also the matrix of a kernel: 4·3 or 8·3 channels in, of 3 × 3 or 1 × 3
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def structured(dtype: torch.dtype = torch.float64) -> Tensor:
    """Rank 2 and 4 % large entries, so that every method has something to find.

    Multiples of one number, small ones, with many of equal magnitude. The number is about 1, and
    such that every dtype needs all its bits for them: they could be stored in no narrower one.
    """
    low_rank = (2 * random(OUT, 2)).round() @ random(2, INNER).mul(2).round()
    spikes = (20 * random(OUT, INNER, seed=1)).round() * (random(OUT, INNER, seed=2) > 1.75)
    return ((low_rank + spikes) * (1 + 2**-13 + 2**-40)).to(dtype)


@dataclass(frozen=True)
class Row:
    """A decomposer and what it must make of `structured()`.

    Attributes:
        kinds: every class of factorization in the result.
        params: at most so many stored learned values.
        trained: the names of the tensors that training may change.
        norm: in which the weight is approximated.
    """

    decomposer: Decomposer
    kinds: set[type[Factorization]]
    params: int
    trained: set[str]
    norm: Norm = IDENTITY
    made: dict[torch.dtype, Factorization] = field(default_factory=dict, init=False, repr=False)

    def decompose(self, weight: Tensor) -> Factorization:
        return self.decomposer.decompose(weight, self.norm)

    def form(self, dtype: torch.dtype = torch.float64) -> Factorization:
        """What it makes of `structured()`, made once for the tests of the result."""
        if dtype not in self.made:
            self.made[dtype] = self.decompose(structured(dtype))
        return copy.deepcopy(self.made[dtype])


def moment() -> Tensor:
    """The second moment of inputs that come together, two of them always zero."""
    inputs = random(100, INNER) @ (torch.eye(INNER) + 0.3 * random(INNER, INNER))
    inputs[:, 5:7] = 0
    return inputs.T @ inputs / len(inputs)


ALL = OUT * INNER
ADAPTER = {"terms.1.term.factors.0.weight", "terms.1.term.factors.1.weight"}
FACTORS = {"factors.0.weight", "factors.1.weight"}
VALUES = {"values.weight"}
SUM_OF_BOTH = {"terms.0.factors.0.weight", "terms.0.factors.1.weight", "terms.1.values.weight"}

ROWS = {
    "svd": Row(TruncatedSVD(rank=3), {Product, Dense}, 3 * (OUT + INNER), FACTORS),
    "svd energy": Row(TruncatedSVD(energy=0.5), {Product, Dense}, ALL, FACTORS),
    "svd ratio": Row(TruncatedSVD(compression_ratio=4), {Product, Dense}, ALL // 4, FACTORS),
    "svd kept dense": Row(TruncatedSVD(rank=OUT), {Dense}, ALL, {"weight"}),
    "Tucker-2": Row(
        Tucker2((8, 3), kernel_size=(3, 3)),
        {Product, ChannelProduct, Dense},
        8 * OUT + 8 * 27 + 3 * 4,
        {"factors.0.weight", "factors.1.core.weight", "factors.1.mixing.weight"},
        Full(moment()),
    ),
    "CP": Row(
        CanonicalPolyadic(12, kernel_size=(3, 3)),
        {Product, ChannelProduct, BlockDiagonal, Dense},
        12 * (OUT + 4 + 9),
        {"factors.0.weight", "factors.1.core.values.weight", "factors.1.mixing.weight"},
    ),
    "Monarch": Row(
        Monarch((6, 6)),
        {PermutedProduct, BlockDiagonal, Dense},
        6 * (OUT + INNER),
        {"left.values.weight", "right.values.weight"},
        Full(moment()),
    ),
    "block low rank": Row(
        BlockLowRank(1.5, (2, 2)),
        {PermutedProduct, DirectSum, Dense},
        ALL * 2 // 3,
        {f"{side}.blocks.{place}.weight" for side in ("left", "right") for place in (0, 1)},
        Full(moment()),
    ),
    "sparse factors": Row(
        SparseFactors(2),
        {Product, Sparse, Dense},
        ALL,
        {"factors.0.values.weight", "factors.1.values.weight"},
    ),
    "magnitude": Row(MagnitudePruning(0.9), {Sparse, Dense}, 87, VALUES),
    "magnitude ratio": Row(
        MagnitudePruning(compression_ratio=4), {Sparse, Dense}, ALL // 4, VALUES
    ),
    "magnitude 2:4": Row(MagnitudePruning(pattern="2:4"), {Sparse, Dense}, ALL // 2, VALUES),
    "magnitude rows": Row(MagnitudePruning(0.5, pattern="rows"), {Sparse, Dense}, ALL // 2, VALUES),
    "magnitude blocks": Row(
        MagnitudePruning(0.5, pattern="5x7"), {Sparse, Dense}, ALL * 2 // 3, VALUES
    ),
    "magnitude in each row": Row(
        MagnitudePruning(0.5, within="row"), {Sparse, Dense}, ALL // 2, VALUES
    ),
    "SparseGPT": Row(SparseGPT(0.5, block_size=16), {Sparse, Dense}, ALL // 2, VALUES),
    "SparseGPT 2:4": Row(
        SparseGPT(pattern="2:4", update="sequential"), {Sparse, Dense}, ALL // 2, VALUES
    ),
    "SparseGPT in half precision": Row(
        Chain([SparseGPT(0.5, within="row"), HalfPrecision()]), {Sparse, Half}, ALL // 2, set()
    ),
    "ALPS": Row(ALPS(0.5, within="row"), {Sparse, Dense}, ALL // 2, VALUES),
    "ALPS columns": Row(ALPS(0.5, pattern="columns"), {Sparse, Dense}, ALL // 2, VALUES),
    "random": Row(RandomPruning(0.5), {Sparse, Dense}, ALL // 2, VALUES),
    "quantized 8 bits": Row(Quantization(8), {Quantized}, ALL, set()),
    "quantized 3 bits": Row(
        Quantization(3, group_size=7, symmetric=False, scale="mse"), {Quantized}, ALL, set()
    ),
    "quantized, weighted": Row(
        Quantization(3, 8, scale="mse"), {Quantized}, ALL, set(), Diagonal(moment().diagonal())
    ),
    "GPTQ": Row(GPTQ(3, 8), {Quantized}, ALL, set(), Full(moment(), damping=0.01)),
    "GPTQ zero points": Row(
        GPTQ(4, 7, symmetric=False, groups="dynamic", sweeps=1),
        {Quantized},
        ALL,
        set(),
        Full(moment()),
    ),
    "AWQ": Row(
        AWQ(4, 12, scale="range"),
        {ScaledColumns, Quantized},
        ALL,
        set(),
        Diagonal(torch.arange(INNER) % 5 + 0.1),
    ),
    "entropy coded": Row(EntropyCodedQuantization(2.5), {EntropyCoded}, ALL, set()),
    "entropy coded, weighted": Row(
        EntropyCodedQuantization(3),
        {EntropyCoded},
        ALL,
        set(),
        Full(moment(), torch.arange(OUT) % 7 + 0.01, damping=0.01),
    ),
    "HQQ": Row(HQQ(3, 8), {Quantized}, ALL, set()),
    "codebook": Row(CodebookQuantization(3), {Codebook}, ALL, {"centroids"}),
    "low rank plus sparse": Row(
        LowRankPlusSparse(2, 0.95), {Sum, Product, Dense, Sparse}, 2 * 60 + 44, SUM_OF_BOTH
    ),
    "low rank plus sparse ratio": Row(
        LowRankPlusSparse(compression_ratio=3),
        {Sum, Product, Dense, Sparse},
        ALL // 3,
        SUM_OF_BOTH,
    ),
    "low rank plus sparse, full norm": Row(
        LowRankPlusSparse(2, 0.9, iterations=3),
        {Sum, Product, Dense, Sparse},
        2 * 60 + 87,
        SUM_OF_BOTH,
        Full(moment(), rows=torch.arange(OUT) % 3 + 1.0),
    ),
    "robust PCA": Row(RobustPCA(), {Sum, Product, Dense, Sparse}, ALL, SUM_OF_BOTH),
    "robust PCA, diagonal norm": Row(
        RobustPCA(),
        {Sum, Product, Dense, Sparse},
        ALL,
        SUM_OF_BOTH,
        Diagonal(torch.arange(INNER) % 5 + 0.5),
    ),
    "low rank times sparse": Row(
        LowRankTimesSparse(4, sparsity=0.5),
        {Product, Dense, Sparse},
        4 * OUT + 2 * INNER,
        {"factors.0.weight", "factors.1.values.weight"},
    ),
    "low rank times sparse, full norm": Row(
        LowRankTimesSparse(8, sparsity=0.5, iterations=3),
        {Product, Dense, Sparse},
        8 * OUT + 4 * INNER,
        {"factors.0.weight", "factors.1.values.weight"},
        Full(moment(), damping=0.01),
    ),
    "LoRA": Row(LoRA(2, 4, dropout=0.1), {Sum, Dense, Scaled, Product}, ALL + 2 * 60, ADAPTER),
    "LoRA pissa": Row(LoRA(2, 4, init="pissa"), {Sum, Dense, Scaled, Product}, ALL + 120, ADAPTER),
    "QLoRA": Row(
        LoRA(2, 4, base=Quantization(4)),
        {Sum, Quantized, Scaled, Product, Dense},
        ALL + 120,
        ADAPTER,
    ),
    "LoftQ": Row(
        LoRA(2, 4, init="residual", base=Quantization(4), iterations=3),
        {Sum, Quantized, Scaled, Product, Dense},
        ALL + 120,
        ADAPTER,
    ),
    "LoSparse": Row(
        LoRA(2, 4, init="residual", base=MagnitudePruning(0.9)),
        {Sum, Sparse, Scaled, Product, Dense},
        87 + 120,
        ADAPTER,
    ),
    "rsLoRA": Row(
        LoRA(4, 4, scaling="alpha/sqrt(rank)"), {Sum, Dense, Scaled, Product}, ALL + 240, ADAPTER
    ),
    "DoRA": Row(
        DoRA(LoRA(2, 4)),
        {NormalizedRows, Sum, Dense, Scaled, Product},
        ALL + 120 + OUT,
        {"lengths", *(f"term.{name}" for name in ADAPTER)},
    ),
    "DoRA of a quantized base": Row(
        DoRA(LoRA(2, 4, init="residual", base=Quantization(4))),
        {NormalizedRows, Sum, Quantized, Scaled, Product, Dense},
        ALL + 120 + OUT,
        {"lengths", *(f"term.{name}" for name in ADAPTER)},
    ),
    "LoRA-XS": Row(
        LoRAXS(3, 6, dropout=0.1),
        {Sum, Dense, Scaled, Product},
        ALL + 3 * 60 + 9,
        {"terms.1.term.factors.1.weight"},
        Full(moment(), torch.arange(OUT) % 3 + 1.0),
    ),
    "VeRA": Row(
        VeRA(50),
        {Sum, Dense, Scaled, Product, ScaledRows},
        ALL + 51 * OUT + 50 * (INNER + 1),
        {"terms.1.term.factors.0.scale", "terms.1.term.factors.1.scale"},
    ),
    "shared-factor LoRA": Row(
        SharedLoRA(3, 6),
        {Sum, Dense, Scaled, Product},
        ALL + 180,
        {"terms.1.term.factors.1.weight"},
        Full(moment(), torch.arange(OUT) % 3 + 1.0),
    ),
    "shared-factor LoRA over its own base": Row(
        SharedLoRA(3, 6, compress_base=True),
        {Sum, Dense, Scaled, Product},
        3 * (OUT + 2 * INNER),
        {"factors.1.terms.1.term.weight"},
    ),
    "shared right factor": Row(
        SharedLoRA(3, 6, side="right", compress_base=True),
        {Sum, Dense, Scaled, Product},
        3 * (2 * OUT + INNER),
        {"factors.0.terms.1.term.weight"},
    ),
    "quantized plus low rank": Row(
        QuantizedPlusLowRank(2, GPTQ(2, 12), iterations=2),
        {Sum, Product, Quantized},
        ALL + 120,
        set(),
        Full(moment(), torch.arange(OUT) % 3 + 1.0, damping=0.01),
    ),
    "pruned and quantized together": Row(
        PruneAndQuantize(ALPS(0.75, within="row", iterations=10), GPTQ(3, sweeps=1)),
        {Sparse, Quantized},
        ALL // 4,
        set(),
        Full(moment(), torch.arange(OUT) % 3 + 1.0, damping=0.01),
    ),
    "pruned and quantized": Row(
        Chain([MagnitudePruning(0.9), Quantization(4)]), {Sparse, Quantized}, 87, set()
    ),
    "quantized SVD": Row(
        Chain([TruncatedSVD(rank=3), Quantization(8)]), {Product, Quantized}, 180, set()
    ),
    "kept": Row(Uncompressed(), {Dense}, ALL, {"weight"}),
    "half precision": Row(HalfPrecision(), {Half}, ALL, set()),
    "half precision of wide range": Row(HalfPrecision("bfloat16"), {Half}, ALL, set()),
    "SVD in half precision": Row(
        Chain([TruncatedSVD(rank=3), HalfPrecision()]), {Product, Half}, 180, set()
    ),
    "sparse plus codebook": Row(
        AlternatingSum([MagnitudePruning(0.95), CodebookQuantization(2)], iterations=3),
        {Sum, Sparse, Dense, Codebook},
        ALL + 44,
        {"terms.0.values.weight", "terms.1.centroids"},
    ),
    "low rank plus sparse plus codebook": Row(
        AlternatingSum(
            [TruncatedSVD(rank=2), MagnitudePruning(0.95), CodebookQuantization(1)], iterations=2
        ),
        {Sum, Product, Dense, Sparse, Codebook},
        2 * 60 + 44 + ALL,
        {
            *("terms.0.factors.0.weight", "terms.0.factors.1.weight"),
            *("terms.1.values.weight", "terms.2.centroids"),
        },
    ),
    "pruned in half precision": Row(
        Chain([MagnitudePruning(0.9), HalfPrecision()]), {Sparse, Half}, 87, set()
    ),
    "pruned with codebook": Row(
        Chain([MagnitudePruning(0.8), CodebookQuantization(3)]),
        {Sparse, Codebook},
        173,
        {"values.centroids"},
    ),
    "pruned with codebook, Huffman code": Row(
        EntropyCoding(Chain([MagnitudePruning(0.8), CodebookQuantization(3)])),
        {Sparse, Codebook},
        173,
        {"values.centroids"},
    ),
    "codebook by ANS": Row(
        EntropyCoding(CodebookQuantization(2), "ans"), {Codebook}, ALL, {"centroids"}
    ),
    "pruned with gaps": Row(
        EntropyCoding(MagnitudePruning(0.9), "fixed", 4), {Sparse, Dense}, 87, VALUES
    ),
    "levels of a table": Row(AsRead("levels of a table"), {ScaledLevels}, ALL, set()),
    "levels with coded scales": Row(AsRead("coded scales"), {ScaledLevels}, ALL, set()),
    "codes with minima": Row(AsRead("minima"), {ScaledLevels}, ALL, set()),
    "reordered codes": Row(AsRead("reordered columns"), {ReorderedColumns, Quantized}, ALL, set()),
}

every_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


def dense_of(form: Factorization) -> Tensor:
    return form.to_dense().detach()


def test_every_decomposer_is_in_the_table():
    inside = {type(row.decomposer) for row in ROWS.values()}
    assert exported(decomposers, Decomposer, {"_decompose"}) == inside - {AsRead}


def test_every_factorization_is_in_the_table():
    inside = set().union(*(row.kinds for row in ROWS.values()))
    methods = {"to_dense", "config", "from_config"}
    assert exported(factorizations, Factorization, methods) == inside


@every_row
@every_dtype
class TestDecompose:
    def test_the_weight_is_not_touched(self, row, dtype):
        weight = structured(dtype).requires_grad_()
        before, version = weight.detach().clone(), weight._version
        form = row.decompose(weight)
        with torch.no_grad():  # Nor by what is done to the result afterwards.
            for tensor in form.state_dict().values():
                tensor.zero_()
        assert weight._version == version
        assert torch.equal(weight, before)
        assert weight.requires_grad and weight.grad is None

    def test_a_weight_that_is_no_contiguous_tensor_gives_the_same(self, row, dtype):
        weight = structured(dtype)
        form = row.decompose(weight.T.contiguous().T)
        torch.testing.assert_close(dense_of(form), dense_of(row.decompose(weight)))

    def test_shape_dtype_and_device_are_kept(self, row, dtype):
        weight = structured(dtype)
        form = row.decompose(weight)
        dense = form.to_dense()
        assert form.shape == tuple(dense.shape) == (OUT, INNER)
        assert dense.dtype == dtype and dense.device == weight.device
        assert {tensor.device for tensor in form.state_dict().values()} == {weight.device}
        assert {parameter.dtype for parameter in form.parameters()} <= {dtype}
        assert form(random(2, INNER, dtype=dtype)).dtype == dtype

    def test_it_is_what_the_table_says(self, row, dtype):
        form = row.form(dtype)
        inside = {type(module) for module in form.modules() if isinstance(module, Factorization)}
        # The values of a sparse leaf are a leaf themselves.
        assert inside == row.kinds
        assert 0 < form.params <= row.params
        assert form.describe() == repr(form) and "\n" not in repr(form)

    def test_it_is_finite_and_nearer_than_nothing(self, row, dtype):
        weight = structured(dtype)
        dense = dense_of(row.decompose(weight))
        assert bool(torch.isfinite(dense).all())
        assert (weight - dense).double().norm() < weight.double().norm()

    def test_the_same_weight_gives_the_same(self, row, dtype):
        torch.manual_seed(0)
        first = row.decompose(structured(dtype)).state_dict()
        torch.manual_seed(1)
        state = torch.get_rng_state()
        again = copy.deepcopy(row).decompose(structured(dtype)).state_dict()
        assert torch.equal(torch.get_rng_state(), state)
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first)


@every_row
@every_dtype
class TestStored:
    def test_the_bytes_are_those_of_the_file(self, row, dtype):
        form = row.form(dtype)
        data = save({name: t.contiguous() for name, t in form.state_dict().items()})
        header = 8 + int.from_bytes(data[:8], "little")
        assert len(data) - header == tensor_bytes(form)
        assert form.nbytes == measure.nbytes(form) <= tensor_bytes(form)

    def test_it_comes_back_from_the_file_bit_for_bit(self, row, dtype):
        form = row.form(dtype).eval()
        data = save({name: t.contiguous() for name, t in form.state_dict().items()})
        back = rebuild(json.loads(json.dumps(form.config()))).eval()
        back.load_state_dict(load(data))
        x = random(3, INNER, dtype=dtype)
        assert torch.equal(back(x), form(x))
        assert torch.equal(back.to_dense(), form.to_dense())
        assert back.config() == form.config() and back.describe() == form.describe()
        assert (back.params, tensor_bytes(back)) == (form.params, tensor_bytes(form))

    def test_a_deep_copy_is_equal_and_independent(self, row, dtype):
        form = row.decompose(structured(dtype)).eval()
        x = random(3, INNER, dtype=dtype)
        y = form(x)  # Fills what is kept between calls.
        twin = copy.deepcopy(form)
        assert torch.equal(twin(x), y)
        with torch.no_grad():
            for tensor in twin.state_dict().values():
                tensor.zero_()
        assert torch.equal(form(x), y)


CONVOLUTIONS = {
    "channel 3x3": (Convolve((3, 3), padding=(1, 1)), 4),
    "channel 3x3, strided and dilated": (Convolve((3, 3), (2, 1), (2, 3), (1, 2)), 4),
    "channel 2x3, 3 groups": (Convolve((2, 3), padding=(1, 0), groups=3), 18),
    "spatial 3x3": (Convolve((3, 3), padding=(1, 1), view="spatial"), 12),
    "spatial 3x2, strided, dilated, 2 groups": (
        Convolve((3, 2), (2, 3), (2, 1), (2, 2), 2, view="spatial"),
        24,
    ),
}


@every_row
class TestForward:
    def test_as_a_linear_layer(self, row):
        form = row.form().eval()
        for shape in ((INNER,), (5, INNER), (2, 3, INNER)):
            x = random(*shape)
            torch.testing.assert_close(form(x), Multiply().apply(x, form.to_dense()))

    @pytest.mark.parametrize(
        ("operation", "channels"), CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys()
    )
    def test_as_a_convolution(self, row, operation, channels):
        form = row.form().eval()
        x = random(2, channels, 9, 8)
        wanted = operation.apply(x, form.to_dense())
        torch.testing.assert_close(form(x, operation), wanted)

    def test_as_an_embedding(self, row):
        form = row.form().eval()
        index = torch.tensor([[0, 5], [OUT - 1, 5]])
        torch.testing.assert_close(form(index, Lookup()), form.to_dense()[index])

    def test_in_another_dtype(self, row):
        form = row.form().eval().float()
        assert form.to_dense().dtype == torch.float32
        x = random(3, INNER, dtype=torch.float32)
        torch.testing.assert_close(form(x), x @ form.to_dense().T, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
    def test_under_autocast(self, row, dtype):
        form, x = row.form(torch.float32).train(), random(5, INNER).float()
        images, conv = random(2, 4, 9, 8).float(), CONVOLUTIONS["channel 3x3"][0]
        expected = form(x).detach(), form(images, conv).detach()
        with torch.autocast("cpu", dtype):
            found = form(x), form(images, conv)
            looked_up = form(torch.tensor([0, 5]), Lookup())
        assert looked_up.shape == (2, INNER)
        for y, exact in zip(found, expected, strict=True):
            assert y.dtype == dtype
            close = {"rtol": 0, "atol": 16 * torch.finfo(dtype).eps * float(exact.abs().max())}
            torch.testing.assert_close(y.detach().float(), exact, **close)
        if row.trained:
            sum(y.float().square().mean() for y in found).backward()
            for parameter in filter(lambda p: p.requires_grad, form.parameters()):
                assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()

    def test_in_inference_mode_and_out_of_it(self, row):
        form = row.form().eval()
        x = random(3, INNER)
        with torch.inference_mode():
            inside = form(x).clone()
        assert torch.equal(inside, form(x).detach())


@every_row
class TestTraining:
    def test_what_should_is_trained_and_nothing_else(self, row):
        form = row.form().train()
        trained = {name for name, p in form.named_parameters() if p.requires_grad}
        assert trained == row.trained
        if not trained:
            return
        before = {name: tensor.clone() for name, tensor in form.state_dict().items()}
        optimizer = torch.optim.SGD(form.parameters(), lr=1e-4, momentum=0.9, weight_decay=0.1)
        for seed in range(3):
            optimizer.zero_grad()
            y = form(random(8, INNER, seed=seed))
            (y - random(8, OUT, seed=seed)).square().sum().backward()
            optimizer.step()
        after = form.state_dict()
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert changed == row.trained
        if isinstance(form, Sparse):  # A pruned weight stays pruned.
            assert bool((dense_of(form)[~form.mask] == 0).all())

    def test_the_gradient_is_that_of_the_dense_matrix(self, row):
        form = row.form().eval()
        if not row.trained:
            assert not form(random(8, INNER)).requires_grad
            return
        trained = [p for p in form.parameters() if p.requires_grad]
        x, upstream = random(8, INNER), random(8, OUT)
        by_form = torch.autograd.grad((form(x) * upstream).sum(), trained)
        by_dense = torch.autograd.grad((form.to_dense() * (upstream.T @ x)).sum(), trained)
        torch.testing.assert_close(by_form, by_dense)


@every_row
class TestHyperparameters:
    def test_the_fields_rebuild_it(self, row):
        method = row.decomposer
        fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
        for twin in (type(method)(**fields), dataclasses.replace(method)):
            assert twin == method and hash(twin) == hash(method) and repr(twin) == repr(method)
            assert torch.equal(dense_of(twin.decompose(structured(), row.norm)), dense_of_row(row))

    def test_as_a_dictionary_it_rebuilds_it(self, row):
        """Methods inside a method become dictionaries too, as in any dataclass."""
        method, plain = row.decomposer, dataclasses.asdict(row.decomposer)
        json.dumps(plain)
        assert rebuilt(method, plain) == method

    def test_it_cannot_be_changed(self, row):
        with pytest.raises(dataclasses.FrozenInstanceError):
            row.decomposer.anything = None  # Also one without hyperparameters is frozen.


def rebuilt(method: Decomposer, plain: dict) -> Decomposer:
    """A method made of its fields, the methods in them being dictionaries."""
    for name, value in vars(method).items():
        if isinstance(value, Decomposer):
            plain[name] = rebuilt(value, plain[name])
        elif isinstance(value, list | tuple) and any(isinstance(v, Decomposer) for v in value):
            plain[name] = [rebuilt(*pair) for pair in zip(value, plain[name], strict=True)]
    return type(method)(**plain)


def dense_of_row(row: Row) -> Tensor:
    return dense_of(row.decompose(structured()))


def with_value(value: float) -> Tensor:
    weight = structured()
    weight[3, 7] = value
    return weight


BAD_WEIGHTS = {
    "NaN": (with_value(float("nan")), r"1 of 864 values .*\(24, 36\) are NaN or infinite"),
    "infinite": (with_value(float("inf")), r"1 of 864 values .* are NaN or infinite"),
    "minus infinite": (with_value(-float("inf")), "are NaN or infinite; .*Check the checkpoint"),
    "vector": (random(6), r"must be a non-empty matrix, not of shape \(6,\)"),
    "kernel": (random(2, 3, 3, 3), r"must be a non-empty matrix, not of shape \(2, 3, 3, 3\)"),
    "empty": (torch.zeros(0, 5), r"must be a non-empty matrix, not of shape \(0, 5\)"),
    "integer": (torch.ones(OUT, INNER, dtype=torch.int64), "floating point, not torch.int64"),
    "complex": (torch.ones(OUT, INNER, dtype=torch.complex64), "floating point, not torch.complex"),
}


@every_row
@pytest.mark.parametrize(("weight", "text"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS.keys())
def test_what_is_no_finite_matrix_is_refused(row, weight, text):
    with pytest.raises(ValueError, match=text):
        row.decompose(weight)


@every_row
def test_a_zero_weight_comes_back_or_is_refused_with_a_reason(row):
    """Dead layers exist; no method may make NaN of them."""
    try:
        form = row.decompose(torch.zeros(OUT, INNER))
    except ValueError as error:
        assert "nothing to start from" in str(error)
    else:
        assert bool((form.to_dense() == 0).all())


@every_row
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_weights_near_the_ends_of_their_dtype_are_no_trouble(row, scale):
    weight = structured(torch.float32) * scale
    try:
        dense = dense_of(row.decompose(weight))
    except ValueError as error:
        assert "dtype='float16'. Use" in str(error)
    else:
        assert bool(torch.isfinite(dense).all())
        assert (weight.double() - dense.double()).norm() < weight.double().norm()


def test_finite_weights_whose_sum_overflows_are_taken():
    check_weight(torch.full((4, 4), 3e38))
