"""Bad calls of `compress`, of allocations and of `optimize_for`."""

import torch
from row import Row, make
from torch import nn

from lowrank.allocation import (
    Budget,
    GlobalMagnitude,
    GlobalRank,
    KeptEnergy,
    MixedAllocation,
    NormError,
    OutlierSparsity,
    Sensitivity,
    SensitivityThreshold,
    SharedBasis,
    grid,
)
from lowrank.compression.compress import check, compress
from lowrank.decomposers import GPTQ, HQQ, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.execution import ExecutionPlan, Search, optimize_for
from lowrank.model.select import Select

METHOD = Quantization(bits=8)
DATA = [torch.randn(8, 8)]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def run(method=METHOD, model=None, **options):
    return lambda _: compress(network() if model is None else model, method, **options)


def changed(change):
    """A network of which something was changed."""
    model = network()
    change(model)
    return model


def weight_is(value):
    def change(model):
        model[0].weight = nn.Parameter(value, requires_grad=False)

    return changed(change)


def optimized(**options):
    model = compress(network(), TruncatedSVD(rank=1)).model
    return lambda _: optimize_for(model, **{"example": (torch.zeros(1, 8),), **options})


def planned(text):
    return lambda _: ExecutionPlan.from_json(text)


def mixed(*args, data=None, example=None, **fields):
    mix = lambda: MixedAllocation(*args, **{"loss": NormError(), "rivals": 0, **fields})  # noqa: E731
    return lambda _: compress(network(), mix(), data=data, example=example)


SVD = [TruncatedSVD(rank=1)]

ROWS = [
    # The model
    Row("no model", run(model="resnet18"), "model must be an nn.Module, got str"),
    Row("a class", run(model=nn.Linear), "model must be an nn.Module, got type"),
    Row(
        "weights alone", run(model=network().state_dict()), "must be an nn.Module, got OrderedDict"
    ),
    Row("nothing to compress", run(model=nn.ReLU()), "matches no layer"),
    Row("no shapes yet", run(model=nn.Sequential(nn.LazyLinear(4))), "have no shape yet"),
    Row("no numbers", run(model=network().to("meta")), "layer '0': the weight is on the meta"),
    Row("NaN", run(model=weight_is(torch.full((8, 8), float("nan")))), "layer '0': 64 of 64"),
    Row("infinite", run(model=weight_is(torch.full((8, 8), float("inf")))), "layer '0': 64 of"),
    Row(
        "integers",
        run(model=weight_is(torch.ones(8, 8, dtype=torch.int8)), where="0"),
        "no method computes with torch.int8",
    ),
    Row(
        "float8",
        run(model=weight_is(torch.ones(8, 8).to(torch.float8_e4m3fn)), where="0"),
        "no method computes with torch.float8_e4m3fn: convert the model first",
    ),
    # The method
    Row("no method", run(None), "method=None must be a decomposer"),
    Row("a name", run("svd"), "method='svd' must be a decomposer"),
    Row("a class of methods", run(TruncatedSVD), "must be a decomposer such as"),
    Row("names by pattern", run({"*": "svd"}), "must be a decomposer such as"),
    Row("pattern of nothing", run({"encoder*": METHOD}), r"patterns \['encoder\*'\] decide no"),
    Row("idle pattern", run({"*": METHOD, "0": METHOD}), r"patterns \['0'\] decide no layer"),
    Row("too high a rank", run(TruncatedSVD(rank=9)), "layer '0': rank=9 does not fit"),
    Row("strict", run(TruncatedSVD(rank=6), strict=True), "layer '2': rank=6 does not fit"),
    Row("strict of text", run(strict="yes"), "strict='yes' must be True or False"),
    Row("named alone", run(TruncatedSVD(rank=6), where="2"), "layer '2': rank=6 does not fit"),
    # Norm and data
    Row("norm", run(norm="frobenius"), "frobenius"),
    Row("norm of a class", run(norm=NormError), "must be a word such as 'full', or norms"),
    Row("norm without data", run(GPTQ(4), norm="full"), "needs calibration data"),
    Row("norm unknown to it", run(HQQ(4), norm="full", data=DATA), "cannot approximate in"),
    Row("idle data", run(HQQ(4), data=DATA), "the calibration data would have no effect"),
    Row("idle data, said", run(GPTQ(4), norm="identity", data=DATA), "would have no effect"),
    Row("values", run(values="int8"), "dtype='int8' must be one of"),
    Row("values too large", run(TruncatedSVD(1), values=16), "dtype=16 must be one of"),
    Row(
        "values beyond float16",
        run(TruncatedSVD(1), weight_is(1e12 * torch.randn(8, 8)), values="float16", where="0"),
        "layer '0': .* above the largest of dtype='float16'",
    ),
    # The example
    Row("example of a tensor", run(example=torch.zeros(1, 8)), "non-empty tuple .* got Tensor"),
    Row("empty example", run(example=()), "non-empty tuple"),
    Row("example of a list", run(example=[torch.zeros(1, 8)]), "got list"),
    Row("example by number", run(example={0: torch.zeros(1, 8)}), "got dict"),
    Row("example without tensors", run(example=("a",)), r"must hold tensors, and \(str\) has none"),
    Row("example of other width", run(example=(torch.zeros(1, 9),)), "does not run on the example"),
    Row("example of integers", run(example=(torch.zeros(1, 8).long(),)), "int64 .1, 8.*RuntimeE"),
    Row("two inputs", run(example=(torch.zeros(1, 8),) * 2), "takes 2 positional arguments"),
    Row("input of another name", run(example={"x": torch.zeros(1, 8)}), r"forward\(input\)"),
    # The choice of layers
    Row("where of a number", run(where=2.5), "include=2.5 must be a name"),
    Row("where of a module", run(where=[nn.Linear]), "must be a name, a glob pattern, or several"),
    Row("include true", make(Select, include=True), "include=True must be a name"),
    Row("min_params no number", make(Select, min_params=float("nan")), "min_params=nan must be"),
    Row("min_params below 0", make(Select, min_params=-1), "min_params=-1 must be at least 0"),
    Row("first of text", make(Select, first="no"), "first='no' must be True or False"),
    Row("last of a number", make(Select, last=0), "last=0 must be True or False"),
    Row("embeddings none", make(Select, embeddings=None), "embeddings=None must be"),
    Row("all too small", run(where=Select(min_params=1000)), "matches no layer"),
    # Before there are weights
    Row("check of a rank", lambda _: check(network().to("meta"), TruncatedSVD(rank=9)), "rank=9"),
    Row("check of a norm", lambda _: check(network(), HQQ(4), norm="full"), "cannot approximate"),
    Row("check of a ratio", lambda _: check(network(), GlobalRank(3.5)), "out of reach"),
    Row(
        "check of a sparsity", lambda _: check(network(), GlobalMagnitude(0.999)), "keeps at least"
    ),
    # Rules
    Row("ratio of ranks", make(GlobalRank, 0.9), "compression_ratio=0.9 must be at least 1"),
    Row("view of ranks", make(KeptEnergy, 2, view="rows"), "view='rows' must be one of"),
    Row("scope of ranks", make(KeptEnergy, 2, of="blocks"), "of='blocks' must be one of"),
    Row("ranks out of reach", run(KeptEnergy(4, of="layers")), "out of reach: rank 1 in every"),
    Row("ranks beyond biases", run(KeptEnergy(40)), "what is never compressed"),
    Row("norm of ranks", run(GlobalRank(1.2), norm="full", data=DATA), "cannot approximate"),
    Row("global sparsity", make(GlobalMagnitude, 1), r"sparsity=1 must lie in \[0, 1\)"),
    Row("a layer left empty", run(GlobalMagnitude(0.999)), "keeps at least 1; lower it"),
    Row("basis of none", run(SharedBasis([["q", "k"]], 2)), "join none of the selected layers"),
    Row("basis twice", make(SharedBasis, [["q"], ["q"]], 2), "name a layer twice"),
    Row("basis of widths", run(SharedBasis([["0", "2"]], 50)), "is out of reach for"),
    Row("outliers", make(OutlierSparsity, MagnitudePruning, 0.5, outlier=0), "outlier=0"),
    Row("spread", make(OutlierSparsity, MagnitudePruning, 0.5, spread=1), "spread=1 must lie"),
    Row("outliers without data", run(OutlierSparsity(MagnitudePruning, 0.5)), "cannot approximate"),
    # Budgets
    Row("budget of nothing", make(Budget), "one of ratio, limit and bits_per_weight"),
    Row("budget of two", make(Budget, ratio=2, limit=100), "one of ratio, limit"),
    Row("budget of text", make(Budget, ratio="2"), "ratio='2' must be a number"),
    Row("budget below 1", make(Budget, ratio=0.5), "ratio=0.5 must be at least 1"),
    Row("budget no number", make(Budget, limit=float("nan")), "limit=nan must be above 0"),
    Row("resource", make(Budget, ratio=2, resource="flops"), "resource='flops' must be one of"),
    Row("scope", make(Budget, ratio=2, of="head"), "of='head' must be one of"),
    Row("bits of macs", make(Budget, bits_per_weight=2, resource="macs"), "a budget of bytes"),
    Row("candidates of nothing", mixed([], Budget(2)), "must name at least one decomposer"),
    Row("candidates of names", mixed(["svd"], Budget(2)), "candidates must be decomposers"),
    Row(
        "candidate of no layer",
        mixed([TruncatedSVD(7)] * 2, Budget(2)),
        "none takes less than the layer",
    ),
    Row("candidate of none", mixed([TruncatedSVD(9)], Budget(2)), "fits none of the 2 layers"),
    Row("budget below all", mixed(SVD, Budget(ratio=3)), "smallest budget that can be met"),
    Row("budget of all", mixed(SVD, Budget(limit=10**6)), "allows the model as it is"),
    Row("macs without example", mixed(SVD, Budget(2, resource="macs")), "give `example`"),
    Row("rivals without data", mixed(SVD, Budget(2), rivals=1), "measured on calibration data"),
    Row("sensitivity without data", mixed(SVD, Budget(2), loss=Sensitivity()), "give `data`"),
    Row(
        "rivals of text",
        make(MixedAllocation, SVD, Budget(2), rivals="three"),
        "rivals='three' must be",
    ),
    Row("probes", make(Sensitivity, probes=1), "probes=1 must be at least 2"),
    Row("examples", make(Sensitivity, examples=0), "examples=0 must be at least 1"),
    Row("relative of text", make(NormError, relative="yes"), "relative='yes' must be True"),
    Row("threshold of names", make(SensitivityThreshold, ["a"], Budget(2)), "must be decomposers"),
    Row("grid of bits", lambda _: grid(Quantization, {"bits": [4, 40]}), "bits=40 does not exist"),
    # Execution
    Row("nothing factorized", lambda _: optimize_for(network(), (torch.zeros(1, 8),)), "compress"),
    Row("example of execution", optimized(example=torch.zeros(1, 8)), "non-empty tuple"),
    Row("width of execution", optimized(example=(torch.zeros(1, 3),)), "does not run on the exa"),
    Row("accuracy", optimized(accuracy="float16"), "accuracy='float16' does not exist"),
    Row("plan of text", planned("{}"), "this is no plan of optimize_for"),
    Row("plan of a list", planned("[1]"), "this is no plan of optimize_for"),
    Row("seconds of a search", make(Search, seconds=0), "seconds=0"),
    Row("threads of a search", make(Search, threads=0), "threads=0"),
]
