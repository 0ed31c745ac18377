"""Bad hyperparameters, and weights that a method cannot take."""

import torch
from row import Row, make

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
    EntropyCodedQuantization,
    HalfPrecision,
    LoRA,
    LowRankPlusSparse,
    LowRankTimesSparse,
    MagnitudePruning,
    Monarch,
    PruneAndQuantize,
    Quantization,
    QuantizedPlusLowRank,
    RandomPruning,
    RobustPCA,
    SparseFactors,
    SparseGPT,
    TruncatedSVD,
    Tucker2,
)
from lowrank.norms import Diagonal, Full

NAN = float("nan")
INF = float("inf")


def of(method, weight=None, norm=None):
    """Decompose a weight, by default 6 × 8."""
    weight = torch.randn(6, 8) if weight is None else weight
    return lambda _: method.decompose(weight) if norm is None else method.decompose(weight, norm)


RANK = TruncatedSVD(rank=2)

ROWS = [
    # Exactly one of several
    Row("svd of nothing", make(TruncatedSVD), "exactly one of rank, energy and compression_ratio"),
    Row("svd of two", make(TruncatedSVD, rank=2, energy=0.9), "exactly one of rank"),
    Row("cp of nothing", make(CanonicalPolyadic), "exactly one of rank and compression_ratio"),
    Row("tucker of two", make(Tucker2, ranks=(1, 1), compression_ratio=2), "exactly one of ranks"),
    Row("monarch of nothing", make(Monarch), "exactly one of blocks"),
    Row("low rank + sparse by half", make(LowRankPlusSparse, rank=2), "either rank and sparsity"),
    Row("low rank x sparse", make(LowRankTimesSparse, rank=1, compression_ratio=2), "exactly one"),
    Row("pruning of nothing", make(MagnitudePruning), "needs exactly one of sparsity"),
    Row("N:M with a sparsity", make(MagnitudePruning, 0.5, pattern="2:4"), "needs none of"),
    # Ranks
    Row("rank 0", make(TruncatedSVD, rank=0), "rank=0 must be at least 1"),
    Row("rank of text", make(TruncatedSVD, rank="8"), "rank='8' must be"),
    Row("rank of a half", make(TruncatedSVD, rank=2.5), "rank=2.5 must be"),
    Row("rank true", make(TruncatedSVD, rank=True), "rank=True must be"),
    Row("rank above", of(TruncatedSVD(rank=7)), "rank=7 does not fit .* 1..6"),
    Row("adapter above", of(LoRA(rank=9, alpha=1)), "rank=9 does not fit"),
    Row("rank of residual above", of(QuantizedPlusLowRank(7, GPTQ(4))), "rank=7 does not fit"),
    Row("energy 0", make(TruncatedSVD, energy=0), r"energy=0 must lie in \(0, 1\]"),
    Row("energy above 1", make(TruncatedSVD, energy=1.5), "energy=1.5"),
    Row("energy no number", make(TruncatedSVD, energy=NAN), "energy=nan"),
    Row("view", make(TruncatedSVD, rank=1, view="row"), "view='row' must be one of"),
    Row("tucker ranks of three", make(Tucker2, ranks=(1, 2, 3)), "must be two integers"),
    Row("tucker ranks of text", make(Tucker2, ranks="ab"), r"ranks\[0\]='a' must be"),
    Row("tucker kernel", make(Tucker2, ranks=(1, 1), kernel_size=None), "kernel_size=None must be"),
    Row("rank ratio 1", make(LowRankPlusSparse, compression_ratio=2, rank_ratio=1), "rank_ratio=1"),
    # Ratios
    Row("ratio below 1", make(TruncatedSVD, compression_ratio=0.5), "must be at least 1 and"),
    Row("ratio infinite", make(MagnitudePruning, compression_ratio=INF), "at least 1 and finite"),
    Row("ratio no number", make(SparseFactors, compression_ratio=NAN), "compression_ratio=nan"),
    Row("ratio of text", make(BlockLowRank, compression_ratio="2"), "compression_ratio='2'"),
    Row("svd ratio", of(TruncatedSVD(compression_ratio=9)), "out of reach .* rank 1 gives 3.43"),
    Row("sparse ratio", of(MagnitudePruning(compression_ratio=99)), "out of reach"),
    Row("factors ratio", of(SparseFactors(compression_ratio=9)), "out of reach for 2 factors"),
    Row("monarch ratio", of(Monarch(compression_ratio=50)), "one block of rank 1 gives"),
    Row("blocks that do not cut", of(BlockLowRank(2, blocks=(4, 1))), "cannot be cut into 4"),
    Row(
        "monarch ratio of a weight of half as many bytes",
        of(Monarch(compression_ratio=25), torch.ones(64, 64)),
        r"of shape \(64, 64\) of 8192 bytes: one block of rank 1 gives 15.9",
    ),
    Row("monarch blocks", of(Monarch(blocks=(4, 2))), "blocks=.4, 2. do not fit"),
    Row("blocks of text", make(BlockLowRank, 2, blocks="22"), "blocks="),
    # Sparsity and patterns
    Row("sparsity 1", make(MagnitudePruning, 1.0), r"sparsity=1.0 must lie in \[0, 1\)"),
    Row("sparsity below 0", make(RandomPruning, -0.1), "sparsity=-0.1 must lie"),
    Row("sparsity of text", make(ALPS, "half"), "sparsity='half' must be a number"),
    Row("sparsity no number", make(SparseGPT, NAN), "sparsity=nan must lie"),
    Row("sparsity true", make(ALPS, True), "sparsity=True must be a number"),
    Row("nothing kept", of(MagnitudePruning(0.99, pattern="rows")), "keeps none of the 6 blocks"),
    Row("nothing kept in a row", of(MagnitudePruning(0.99, within="row")), "each row of blocks"),
    Row("pattern", make(MagnitudePruning, 0.5, pattern="diagonal"), "pattern='diagonal' does not"),
    Row("pattern of a list", make(ALPS, 0.5, pattern=[2, 4]), r"pattern=\[2, 4\] does not exist"),
    Row("4:2", make(MagnitudePruning, pattern="4:2"), "pattern='4:2' does not exist"),
    Row("0:4", make(MagnitudePruning, pattern="0:4"), "pattern='0:4' does not exist"),
    Row("blocks of 0", make(MagnitudePruning, 0.5, pattern="0x4"), "pattern='0x4' does not"),
    Row("within", make(MagnitudePruning, 0.5, within="column"), "within='column' must be one"),
    Row("rows in rows", make(ALPS, 0.5, pattern="rows", within="row"), "already says what"),
    Row("sparsegpt in blocks", make(SparseGPT, 0.5, pattern="4x4"), "of SparseGPT must be"),
    Row("sparsegpt blocks", make(SparseGPT, 0.5, block_size=0), "block_size=0 must be at least 1"),
    Row("seed of text", make(RandomPruning, 0.5, seed="one"), "seed='one' must be an integer"),
    Row("iterations 0", make(ALPS, 0.5, iterations=0), "iterations=0 must be at least 2"),
    Row("iterations below 0", make(SparseFactors, 2, iterations=-1), "iterations=-1"),
    Row("one factor", make(SparseFactors, 2, factors=1), "factors=1 must be at least 2"),
    Row("share 0", make(SparseFactors, 2, share=0), r"share=0 must lie in \(0, 1\)"),
    # Bits and groups
    Row("0 bits", make(Quantization, bits=0), "bits=0 does not exist: give an integer in 1..8"),
    Row("9 bits", make(GPTQ, bits=9), "bits=9 does not exist"),
    Row("bits of a half", make(HQQ, bits=2.5), "bits=2.5 does not exist"),
    Row("bits true", make(CodebookQuantization, bits=True), "bits=True does not exist"),
    Row("entropy bits 0", make(EntropyCodedQuantization, bits=0), "bits=0"),
    Row("entropy bits no number", make(EntropyCodedQuantization, bits=NAN), "bits=nan"),
    Row("entropy bits of text", make(EntropyCodedQuantization, bits="2"), "bits='2'"),
    Row("group 0", make(Quantization, 4, group_size=0), "group_size=0 does not exist"),
    Row("group below 0", make(GPTQ, 4, group_size=-64), "group_size=-64 does not exist"),
    Row("group of a word", make(AWQ, 4, group_size="row"), "group_size='row' does not exist"),
    Row("group of a half", make(HQQ, 4, group_size=0.5), "group_size=0.5 does not exist"),
    Row(
        "symmetric of text", make(Quantization, 4, symmetric="yes"), "symmetric='yes' must be True"
    ),
    Row("symmetric of a number", make(GPTQ, 4, symmetric=1), "symmetric=1 must be True or False"),
    Row("symmetric none", make(AWQ, 4, symmetric=None), "symmetric=None must be"),
    Row("scale", make(Quantization, 4, scale="max"), "scale='max' must be one of"),
    Row("scale dtype", make(Quantization, 4, scale_dtype="int8"), "scale_dtype='int8' must be"),
    Row("order", make(GPTQ, 4, order="random"), "order='random' must be one of"),
    Row("groups", make(GPTQ, 4, groups="none"), "groups='none' must be one of"),
    Row("sweeps", make(GPTQ, 4, sweeps=-1), "sweeps=-1 must be at least 0"),
    Row("power of hqq", make(HQQ, 4, power=0), "power=0"),
    Row("dtype of halves", make(HalfPrecision, "float8"), "dtype='float8' must be one of"),
    Row("factor bits", make(QuantizedPlusLowRank, 2, GPTQ(4), factor_bits=12), "factor_bits=12"),
    # Parts
    Row("chain of nothing", make(Chain, []), "Chain needs at least 1 step"),
    Row("chain of one", make(Chain, RANK), "must be a sequence of decomposers"),
    Row("chain of names", make(Chain, ["svd"]), "step 1 of Chain must be a Decomposer"),
    Row("chain of a class", make(Chain, [RANK, Quantization]), "step 2 of Chain must be"),
    Row("sum of one", make(AlternatingSum, [RANK]), "must be a sequence of at least 2 decomposers"),
    Row("sum of names", make(AlternatingSum, [RANK, "svd"]), "part 2 of AlternatingSum must be"),
    Row("sum of a text", make(AlternatingSum, "svd"), "must be a sequence of at least 2"),
    Row("sum of no passes", make(AlternatingSum, [RANK, RANK], 0), "iterations=0 must be at least"),
    Row(
        "sum of two views",
        make(AlternatingSum, [TruncatedSVD(2), MagnitudePruning(pattern="2:4")]),
        "see kernels as different matrices",
    ),
    Row("base of a name", make(LoRA, 2, 1, base="gptq"), "base='gptq' must be a Decomposer"),
    Row("base no GPTQ", make(QuantizedPlusLowRank, 2, Quantization(4)), "must be a GPTQ"),
    Row("pruning no ALPS", make(PruneAndQuantize, MagnitudePruning(0.5), GPTQ(4)), "class ALPS"),
    Row(
        "groups of survivors", make(PruneAndQuantize, ALPS(0.5), GPTQ(4, 8, groups="dynamic")), "st"
    ),
    Row("residual of nothing", make(LoRA, 2, 1, init="residual"), "a dense base loses nothing"),
    Row("start", make(LoRA, 2, 1, init="ones"), "init='ones' must be one of"),
    Row("alpha 0", make(LoRA, 2, 0), "alpha=0 must be above 0"),
    Row("alpha no number", make(LoRA, 2, NAN), "alpha=nan must be above 0"),
    Row("dropout 1", make(LoRA, 2, 1, dropout=1), r"dropout=1 must lie in \[0, 1\)"),
    Row("tolerance", make(RobustPCA, tolerance=2), r"tolerance=2 must lie in \(0, 1\)"),
    Row("sparse weight", make(RobustPCA, sparse_weight=0), "sparse_weight=0 must be above 0"),
    Row("no convergence", of(RobustPCA(max_iterations=1)), "has not converged: after max_it"),
    # Weights
    Row("a vector", of(RANK, torch.randn(8)), "must be a non-empty matrix, not of shape"),
    Row("a kernel", of(RANK, torch.randn(4, 3, 3, 3)), "must be a non-empty matrix"),
    Row("no rows", of(RANK, torch.randn(0, 8)), "must be a non-empty matrix"),
    Row("integers", of(RANK, torch.ones(4, 4, dtype=torch.int64)), "not torch.int64"),
    Row("complex", of(RANK, torch.ones(4, 4, dtype=torch.complex64)), "not torch.complex64"),
    Row("float8", of(RANK, torch.ones(4, 4).to(torch.float8_e5m2)), "not torch.float8_e5m2"),
    Row("a list", of(RANK, [[1.0, 2.0]]), "must be a tensor, not a list"),
    Row("not there", of(RANK, torch.ones(4, 4, device="meta")), "on the meta device"),
    Row("not a number", of(RANK, torch.full((4, 4), NAN)), "16 of 16 values .* are NaN"),
    Row("infinite", of(Quantization(4), torch.full((4, 4), -INF)), "NaN or infinite"),
    # Norms
    Row("norm of other inputs", of(RANK, norm=Full(torch.eye(9))), "moment of length 9 do not fit"),
    Row("norm of other outputs", of(RANK, norm=Diagonal(rows=torch.ones(9))), "rows of length 9"),
    Row("norm that it knows not", of(HQQ(4), norm=Full(torch.eye(8))), "cannot approximate in"),
    Row("fields that are not", lambda _: Quantization(**{"bits": 17}), "bits=17"),
]
