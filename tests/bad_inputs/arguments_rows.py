"""Options of another type than they must have, found when they are given."""

import math
from functools import partial

import numpy as np
import torch
from row import Row, make
from torch import nn

from lowrank.allocation import (
    Budget,
    ByName,
    MixedAllocation,
    OutlierSparsity,
    SensitivityThreshold,
    SharedBasis,
    Uniform,
    grid,
)
from lowrank.compression.compress import check, compress
from lowrank.decomposers import (
    GPTQ,
    MagnitudePruning,
    Quantization,
    QuantizedPlusLowRank,
    RandomPruning,
    TruncatedSVD,
)
from lowrank.execution import Search
from lowrank.execution.integer import DynamicInt8Kernel
from lowrank.execution.sparse import BSRKernel, CSRKernel
from lowrank.point.settings import MeasureSettings
from lowrank.recovery import Tune

SVD = TruncatedSVD(rank=2)
DATA = [torch.randn(8, 8)]


def run(method, **options):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    return lambda _: compress(model, method, **options)


def never(_):
    raise AssertionError("the work has begun")


def unread():
    """Calibration data that nobody may run."""
    model = nn.Sequential(nn.Linear(8, 8))
    model.register_forward_pre_hook(lambda *_: never(None))
    return model


PRUNE = partial(MagnitudePruning, within="row")

ROWS = [
    # Decomposers of layers
    Row("uniform of a number", make(Uniform, 3), "decomposer=3 must be a Decomposer, such as"),
    Row("uniform of a class", make(Uniform, TruncatedSVD), "must be a Decomposer"),
    Row("names of a number", make(ByName, 3), "decomposers=3 must be a mapping from patterns"),
    Row("names of a list", make(ByName, [SVD]), "must be a mapping from patterns"),
    Row("a number for a name", make(ByName, {"a": 3}), "the decomposer of 'a'=3 must be a Decomp"),
    Row("a half for a name", run({0.5: SVD}), "pattern=0.5 must be a name or a glob pattern"),
    Row("true for a name", run({True: SVD}), "pattern=True must be a name or"),
    Row("none for a name", run({None: SVD}), "pattern=None must be a name or"),
    Row("a tuple for a name", run({("0", "2"): SVD}), "pattern=.'0', '2'. must be a name or"),
    Row("one name twice", run({0: SVD, "0": SVD}), "pattern '0' is there twice"),
    Row("a number of no layer", run({7: SVD}), r"patterns \['7'\] decide no layer"),
    # What makes decomposers
    Row(
        "outliers of a number",
        make(OutlierSparsity, 3, 0.7),
        "of=3 must make a decomposer when .*not",
    ),
    Row("outliers of a method", make(OutlierSparsity, SVD, 0.7), "is not a callable object"),
    Row(
        "outliers without sparsity",
        make(OutlierSparsity, TruncatedSVD, 0.7),
        "TruncatedSVD.* when called with sparsity: .*unexpected keyword argument 'sparsity'",
    ),
    Row("outliers of a dict", make(OutlierSparsity, dict, 0.7), "must make a decomposer"),
    Row(
        "outliers of a pattern",
        make(OutlierSparsity, partial(MagnitudePruning, pattern="2:4"), 0.5),
        "needs none of",
    ),
    Row("outlier infinite", make(OutlierSparsity, PRUNE, 0.7, outlier=math.inf), "outlier=inf"),
    Row(
        "outliers in no norm",
        make(OutlierSparsity, RandomPruning, 0.7),
        "RandomPruning.* approximates in none of the norms",
    ),
    Row(
        "outliers in a norm that the method knows not",
        lambda _: compress(unread(), OutlierSparsity(PRUNE, 0.7), norm="full", data=DATA),
        "MagnitudePruning cannot approximate in the norm Full",
    ),
    Row(
        "check of outliers",
        lambda _: check(unread(), OutlierSparsity(PRUNE, 0.7), norm="full"),
        "MagnitudePruning cannot approximate in the norm Full",
    ),
    Row("outliers without inputs", run(OutlierSparsity(PRUNE, 0.7)), "give `data`, and no norm or"),
    Row("grid of a number", make(grid, Quantization, {"bits": 4}), "'bits': 4 must be .* a list"),
    Row("grid of text", make(grid, Quantization, {"bits": "48"}), "'bits': '48' must be"),
    Row("grid of a tensor", make(grid, Quantization, {"bits": torch.tensor(4)}), "'bits': tensor"),
    Row("grid of no values", make(grid, Quantization, {"bits": []}), "list of at least one value"),
    Row(
        "grid of a slip",
        make(grid, Quantization, {"bitz": [4]}),
        "called with bitz: .* It takes bits, group",
    ),
    Row("grid by a number", make(grid, Quantization, {4: [4]}), "4: .4. must be a hyperparameter"),
    Row("grid of nothing", make(grid, Quantization, {}), "over={} must be a mapping from names"),
    Row("grid of a list", make(grid, Quantization, [4]), r"over=\[4\] must be a mapping"),
    Row("grid by half", make(grid, GPTQ, {"order": ["index"]}), "missing .*'bits'"),
    Row("grid of a word", make(grid, "Quantization", {"bits": [4]}), "of='Quantization' must make"),
    Row(
        "grid of no decomposers",
        make(grid, lambda bits: bits, {"bits": [4]}),
        "must make a decomposer .* made 4",
    ),
    # Groups
    Row("groups of a number", make(SharedBasis, 3, 2.0), "groups=3 must be a list of lists"),
    Row("groups of methods", make(SharedBasis, [SVD], 2.0), "must be a list of lists of names"),
    Row("groups of a word", make(SharedBasis, "ab", 2.0), "groups='ab' must be a list of lists"),
    Row("groups of words", make(SharedBasis, ["ab"], 2.0), "must be a list of lists of names"),
    Row("groups of halves", make(SharedBasis, [[0.5, "a"]], 2.0), "groups=0.5 must be a name"),
    Row("groups of none", make(SharedBasis, [], 2.0), r"groups=\[\] must be a list of lists"),
    Row("groups of a dict", make(SharedBasis, {"a": 3}, 2.0), "must be a list of lists of names"),
    # Budgets
    Row("limit true", make(Budget, limit=True), "limit=True must be a number"),
    Row("bits per weight true", make(Budget, bits_per_weight=True), "bits_per_weight=True must be"),
    Row("ratio true", make(Budget, ratio=True), "ratio=True must be a number"),
    Row("ratio infinite", make(Budget, ratio=math.inf), "ratio=inf must be at least 1 and finite"),
    Row("ratio 0", make(Budget, ratio=0), "ratio=0 must be at least 1"),
    Row("limit beyond floats", make(Budget, limit=10**400), "limit is beyond the range of a float"),
    Row(
        "budget of a number",
        make(MixedAllocation, [SVD], 4.0),
        "budget=4.0 must be a Budget, such as",
    ),
    Row(
        "loss of a word",
        make(MixedAllocation, [SVD], Budget(2), loss="norm"),
        "loss='norm' must be a Loss",
    ),
    Row("threshold of a number", make(SensitivityThreshold, [SVD], 2), "budget=2 must be a Budget"),
    # Execution
    Row("seconds true", make(Search, seconds=True), "seconds=True must be a number"),
    Row("seconds infinite", make(Search, seconds=math.inf), "seconds=inf must be above 0 and fini"),
    Row("seconds of a tensor", make(Search, seconds=torch.tensor(3.0)), "must be a number"),
    Row("seconds of text", make(Search, seconds="3"), "seconds='3' must be a number"),
    Row("threads true", make(Search, threads=True), "threads=True must be at least 1 and an int"),
    Row("threads of a half", make(Search, threads=2.5), "threads=2.5 must be at least 1 and an"),
    Row("threads no number", make(Search, threads=math.nan), "threads=nan must be"),
    Row("threads of a list", make(Search, threads=[3]), r"threads=\[3\] must be"),
    Row("kernels of a number", make(Search, kernels=3), "kernels=3 must be a list"),
    Row("kernels of text", make(Search, kernels="3"), "kernels='3' must be a list"),
    Row("kernels of names", make(Search, kernels=["dense"]), "kernels='dense' must be a Kernel"),
    Row("engine", make(DynamicInt8Kernel, 3), "engine=3 must be one of"),
    Row("panel of blocks", make(BSRKernel, panel=0), "panel=0 must be at least 1"),
    Row("columns of rows", make(CSRKernel, columns=2.5), "columns=2.5 must be at least 1"),
    # Others
    Row("tune of a number", make(Tune, parts=3), "parts=3 must be a list of some of scales"),
    Row("tune of a tensor", make(Tune, parts=torch.ones(2)), "must be a list of some of scales"),
    Row("tune of a mapping", make(Tune, parts={"scales": 1}), "must be a list of some of scales"),
    Row("batch sizes of text", make(MeasureSettings, latency_batch_sizes=""), "must be a list"),
    Row("batch sizes of bytes", make(MeasureSettings, latency_batch_sizes=b"x"), "must be a list"),
    Row(
        "batch sizes of a tensor",
        make(MeasureSettings, latency_batch_sizes=torch.ones(2)),
        "latency_batch_sizes=tensor.* must be a list",
    ),
    Row(
        "factor bits of numpy",
        make(QuantizedPlusLowRank, 2, GPTQ(4), factor_bits=np.ones(2)),
        "factor_bits=array.* must lie in 1..8",
    ),
]
