"""Bad factorizations, operations, codes and writes."""

import torch
import torch.nn.functional as F
from row import Row
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import (
    GPTQ,
    CodebookQuantization,
    EntropyCodedQuantization,
    HalfPrecision,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
    Uncompressed,
)
from lowrank.factorizations import (
    BlockDiagonal,
    BlockGrid,
    ChannelProduct,
    Codebook,
    Dense,
    DirectSum,
    EntropyCoded,
    Half,
    Layout,
    PermutedProduct,
    Product,
    Quantized,
    ReorderedColumns,
    Scaled,
    ScaledColumns,
    Sparse,
    Sum,
    rebuild,
)
from lowrank.factorizations.laws import Exponents, Law
from lowrank.factorizations.operations import Convolve, MultiplyAlong, MultiplyBlocks
from lowrank.factorizations.packing import pack, unpack
from lowrank.model.factorized import FactorizedConvolution, FactorizedEmbedding, FactorizedLinear

SHAPE = (4, 6)
MATRIX = torch.arange(24.0).view(SHAPE) / 10 - 1
LAYOUT = Layout(SHAPE, 2, "channel")
CODES = torch.arange(24).view(SHAPE) % 4
SCALE, NAN = torch.ones(4), float("nan")
KEPT = torch.arange(24).view(SHAPE) % 2 == 0


def dense(rows=4, columns=6):
    return Dense(torch.ones(rows, columns))


def quantized(**changed):
    given = {"layout": LAYOUT, "codes": CODES, "scale": SCALE, "zero": None} | changed
    return lambda _: Quantized(**given)


def codebook(codes=CODES, centroids=None):
    centroids = torch.ones(4, 4) if centroids is None else centroids
    return lambda _: Codebook(LAYOUT, codes, centroids)


def coded(codes=CODES, step=1.0, reach=3, rows=4):
    law = Law(0.5, 0.1, reach)
    spreads = Exponents(torch.zeros(rows).long(), torch.zeros(6).long())
    return EntropyCoded.of(codes, (step, spreads), (law, spreads))


def exponents(row):
    return lambda _: Exponents(row, torch.zeros(6).long())


def permuted(ranks, grid=(2, 2), inner=4):
    return lambda _: PermutedProduct(dense(4, inner), dense(inner, 6), grid, ranks)


def convolve(**changed):
    return lambda _: Convolve(**({"kernel_size": (3, 3)} | changed))


def decompose(method, weight):
    return lambda _: method.decompose(weight)


def written(write, method=None, layer=None):
    """A compressed layer whose weight is written to, no gradients taken."""

    def act(_):
        model = compress(layer or nn.Linear(6, 4), method or TruncatedSVD(rank=1)).model
        with torch.no_grad():
            write(model)

    return act


LOST, EIGHT = "a write into it would be lost", Quantization(bits=8)

ROWS = [
    Row("dense vector", lambda _: Dense(torch.ones(6)), "needs a matrix, not shape"),
    Row("dense integers", lambda _: Dense(torch.ones(2, 2).long()), "floating point, not torch.i"),
    Row("half of 32 bits", lambda _: Half(MATRIX), "Half needs a matrix of float16 or bfloat16"),
    Row("half vector", lambda _: Half(torch.ones(6).half()), r"not \(6,\) of torch.float16"),
    Row("layout of 2.5 bits", lambda _: Layout(SHAPE, 2.5, 8), "bits=2.5 does not exist"),
    Row("layout of 9 bits", lambda _: Layout(SHAPE, 9, 8), r"give an integer in 1\.\.8"),
    Row("layout of true bits", lambda _: Layout(SHAPE, True, 8), "bits=True does not exist"),
    Row("layout of a vector", lambda _: Layout((4,), 2, 8), "must be two integers"),
    Row(
        "layout below 0",
        lambda _: Layout((4, -1), 2, 8),
        r"shape\[1\]=-1 must be at least 0 and an integer",
    ),
    Row("layout, half a group", lambda _: Layout(SHAPE, 2, 2.5), "group_size=2.5 does not exist"),
    Row("layout, group of rows", lambda _: Layout(SHAPE, 2, "rows"), "or 'channel'"),
    Row("packing too large", lambda _: pack(torch.tensor([3, 4]), 2), r"0\.\.3, .* lie in 3\.\.4"),
    Row("packing below 0", lambda _: pack(torch.tensor([-1, 2]), 2), r"lie in -1\.\.2"),
    Row("packing fractions", lambda _: pack(torch.tensor([0.5]), 2), "must be whole numbers"),
    Row("packing in 0 bits", lambda _: pack(torch.tensor([0]), 0), "bits=0 does not exist"),
    Row("unpacking too many", lambda _: unpack(torch.zeros(2).byte(), 4, 5), "are 3 bytes"),
    Row("unpacking no bytes", lambda _: unpack(torch.zeros(9), 4, 5), "are 9 of torch.float32"),
    Row("codes of another shape", quantized(codes=CODES.T), r"codes of shape \(6, 4\) do not fit"),
    Row("real codes", quantized(codes=CODES / 2), "codes .* must be whole numbers"),
    Row("codes of more bits", quantized(codes=CODES + 1), r"codes must lie in 0\.\.3"),
    Row("one scale for four", quantized(scale=SCALE[:1]), r"scale of shape \(1,\) do not fit"),
    Row("integer scales", quantized(scale=SCALE.int()), "scale must be floating point"),
    Row("scale NaN", quantized(scale=SCALE * NAN), "scale: 4 of 4 numbers are NaN or infinite"),
    Row("zero of more bits", quantized(zero=4 * SCALE.int()), r"zero must lie in 0\.\.3"),
    Row("infinite zero", quantized(zero=SCALE / 0), "zero: 4 of 4 numbers are NaN or infinite"),
    Row("zeros of columns", quantized(zero=torch.zeros(6)), r"zero of shape \(6,\) do not fit"),
    Row("few centroids", codebook(centroids=torch.ones(4, 3)), r"needs \(\(4, 6\), \(4, 4\)\)"),
    Row("integer centroids", codebook(centroids=torch.ones(4, 4).int()), "centroids must be float"),
    Row("codes without centroids", codebook(codes=CODES + 7), r"must lie in 0\.\.3, .* 7\.\.10"),
    Row("real codes of a book", codebook(codes=CODES / 2), "must be whole numbers: round them"),
    Row("block of no rows", lambda _: BlockGrid(SHAPE, (0, 1)), "block=.* at least 1"),
    Row("half a block", lambda _: BlockGrid(SHAPE, (1, 2.5)), r"block\[1\]=2.5 must be at least 1"),
    Row("grid of a vector", lambda _: BlockGrid((4,)), r"shape=\(4,\) must be two integers"),
    Row("kept of another shape", lambda _: Sparse.from_dense(MATRIX, KEPT.T), r"needs \(4, 6\)"),
    Row("kept as numbers", lambda _: Sparse.from_dense(MATRIX, KEPT.int()), "and torch.bool"),
    Row(
        "values of other weights",
        lambda _: Sparse(BlockGrid(SHAPE), KEPT, dense(4, 2)),
        r"values of shape \(4, 2\) do not fit 12 kept blocks",
    ),
    Row("product of one", lambda _: Product(dense()), "at least 2 factors, got 1"),
    Row("product of a tensor", lambda _: Product(dense(), MATRIX.T), r"is one as Dense\(matrix\)"),
    Row(
        "product that does not fit", lambda _: Product(dense(), dense()), "inner dimensions do not"
    ),
    Row("sum of one", lambda _: Sum(dense()), "at least 2 terms, got 1"),
    Row(
        "sum of a number", lambda _: Sum(dense(), 1.0), "a term must be a factorization, not float"
    ),
    Row("sum of two shapes", lambda _: Sum(dense(), dense(6, 4)), "terms of a sum differ in shape"),
    Row("dropout of all", lambda _: Scaled(dense(), 1.0, 1.0), r"dropout=1.0 must lie in \[0, 1\)"),
    Row("scaled by NaN", lambda _: Scaled(dense(), NAN), "scale=nan must be finite"),
    Row("scaled beyond float32", lambda _: Scaled(dense(), 1e39), "scale=1e.39 must be finite"),
    Row("scaled tensor", lambda _: Scaled(MATRIX, 1.0), "the term must be a factorization"),
    Row("scaled rows", lambda _: ScaledColumns(dense(), SCALE), r"which needs \(6,\)"),
    Row(
        "columns scaled by infinity",
        lambda _: ScaledColumns(dense(), torch.ones(6) / 0),
        "scale: 6 of 6 numbers are NaN",
    ),
    Row(
        "columns in no order",
        lambda _: ReorderedColumns(dense(), torch.zeros(6).long()),
        "no permutation of 6 columns",
    ),
    Row(
        "rows of no blocks", lambda _: BlockDiagonal(3, dense()), "4 rows are not those of 3 blocks"
    ),
    Row("no diagonal block", lambda _: BlockDiagonal(0, dense()), "count=0 must be at least 1"),
    Row("a block and a half", lambda _: BlockDiagonal(1.5, dense()), "count=1.5 must be"),
    Row("direct sum of none", lambda _: DirectSum(), "at least 1 block, got none"),
    Row("direct sum of tensors", lambda _: DirectSum(MATRIX), "a block must be a factorization"),
    Row("no positions", lambda _: ChannelProduct(dense(), dense(), 0), "positions=0 must be"),
    Row(
        "core of other channels",
        lambda _: ChannelProduct(dense(), dense(), 2),
        "has no 2 columns for each of the 4 channels",
    ),
    Row("ranks of another grid", permuted(torch.ones(2, 3)), r"must be those of a grid \(2, 2\)"),
    Row("negative ranks", permuted(torch.tensor([[-1]])), r"ranks must lie in 0\.\.65535"),
    Row("real ranks", permuted(torch.ones(1, 1)), "ranks must be integers"),
    Row("grid of one number", permuted(torch.ones(1, 1).long(), (2,)), "grid=.* two integers"),
    Row("ranks of other factors", permuted(torch.ones(1, 1).long(), inner=5), "ranks of sum 4"),
    Row("real numbers coded", lambda _: coded(CODES.float()), "codes must be a matrix of integers"),
    Row("coded vector", lambda _: coded(CODES[0]), r"not of shape \(6,\)"),
    Row("step of 0", lambda _: coded(step=0.0), "step=0.0 between levels must be above 0"),
    Row("step of NaN", lambda _: coded(step=NAN), "step=nan between levels"),
    Row("codes beyond a law", lambda _: coded(reach=2), "up to 3 .* this one reaches 2"),
    Row("exponents of other rows", lambda _: coded(rows=5), "lengths .* do not fit codes of shape"),
    Row("law that grows", lambda _: Law(-1.0, 0.1, 3), "linear=-1.0 .* must be at least 0"),
    Row("law of infinite slope", lambda _: Law(0.1, float("inf"), 3), "square=inf .* finite"),
    Row("law of too long reach", lambda _: Law(0.1, 0.1, 5000), r"must lie in 0\.\.4096"),
    Row("exponents as numbers", exponents(SCALE), "are a vector of integers"),
    Row("exponents beyond a byte", exponents(torch.tensor([256])), r"must lie in 0\.\.255"),
    Row("unknown form", lambda _: rebuild({"type": "Circulant"}), "'Circulant' is not known"),
    Row("unknown view", convolve(view="rows"), "view='rows' must be one of"),
    Row("kernel of no width", convolve(kernel_size=(3, 0)), "must be at least 1, padding"),
    Row("negative padding", convolve(padding=(-1, 0)), "padding at least 0"),
    Row("no groups", convolve(groups=0), "groups=0.*must be at least 1"),
    Row("multiplying no blocks", lambda _: MultiplyBlocks(0), "count=0 must be at least 1"),
    Row("along no positions", lambda _: MultiplyAlong(0), "positions=0 must be at least 1"),
    Row(
        "bias of another layer",
        lambda _: FactorizedLinear(dense(), nn.Parameter(torch.ones(6))),
        r"a bias of shape \(6,\) does not fit .* needs \(4,\)",
    ),
    Row(
        "kernel of another layer",
        lambda _: FactorizedConvolution(nn.Conv2d(2, 4, 2), dense(), "channel"),
        r"view 'channel' has shape \(4, 8\)",
    ),
    Row("padding beyond the table", lambda _: FactorizedEmbedding(dense(), 4), "is none of 4 rows"),
    Row(
        "scale beyond float16", decompose(EIGHT, 1e9 * MATRIX), "are above the largest of scale_dt"
    ),
    Row("values beyond float16", decompose(HalfPrecision(), 1e6 * MATRIX), "is above the largest"),
    Row(
        "levels beyond the weight's dtype",
        decompose(Quantization(1, scale_dtype="bfloat16"), torch.full(SHAPE, 65504.0).half()),
        "in its matrix that are too large for torch.float16",
    ),
    Row("entropy in no bits", lambda _: EntropyCodedQuantization(NAN), r"must lie in \(0, 8\]"),
    Row(
        "entropy in too few bits",
        decompose(EntropyCodedQuantization(0.5), MATRIX),
        "too few for 24 weights, of which even codes that are all 0 take",
    ),
    Row("codebook of 2.5 bits", lambda _: CodebookQuantization(2.5), "bits=2.5 does not exist"),
    Row("sweeps of GPTQ", lambda _: GPTQ(4, sweeps=0.5), "sweeps=0.5 must be at least 0"),
    Row("written in place", written(lambda m: m.weight.mul_(2)), LOST),
    Row("written as PEFT merges", written(lambda m: m.weight.data.add_(1), EIGHT), LOST),
    Row("written through a view", written(lambda m: m.weight.T[0].zero_()), "LowRank 6→1→4, and"),
    Row("written by index", written(lambda m: m.weight.__setitem__(0, 1.0), EIGHT), LOST),
    Row("initialised anew", written(lambda m: nn.init.normal_(m.weight)), "weight.clone()"),
    Row("clipped", written(lambda m: m.weight.clamp_(-1, 1), MagnitudePruning(0.5)), LOST),
    Row("data exchanged", written(lambda m: setattr(m.weight, "data", MATRIX)), LOST),
    Row("gradient given", written(lambda m: setattr(m.weight, "grad", MATRIX), EIGHT), LOST),
    Row("frozen by its weight", written(lambda m: m.weight.requires_grad_(False)), LOST),
    Row("hooked", written(lambda m: m.weight.register_hook(print)), LOST),
    Row("written by numpy", written(lambda m: m.weight.detach().numpy().fill(0)), "read-only"),
    Row("as an output", written(lambda m: torch.add(1, m.weight, out=m.weight), EIGHT), LOST),
    Row("activated in place", written(lambda m: F.relu(m.weight, inplace=True)), LOST),
    Row("weight assigned", written(lambda m: setattr(m, "weight", MATRIX), Uncompressed()), LOST),
    Row("weight deleted", written(lambda m: delattr(m, "weight"), EIGHT), LOST),
    Row(
        "weight registered",
        written(lambda m: m.register_parameter("weight", nn.Parameter(MATRIX))),
        "layer.factorization",
    ),
    Row(
        "projection of an attention assigned",
        written(lambda m: setattr(m, "in_proj_weight", None), layer=nn.MultiheadAttention(4, 2)),
        "before compressing",
    ),
    Row(
        "kernel written",
        written(lambda m: m.weight.data[0].fill_(1), layer=nn.Conv2d(3, 4, 2)),
        LOST,
    ),
    Row(
        "table written",
        written(lambda m: m.weight.copy_(torch.ones(6, 4)), EIGHT, nn.Embedding(6, 4)),
        "Quantized 4→6, 8 bits",
    ),
]
