"""Bad data, masks, norms, kept statistics and settings of what runs on calibration data."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from row import Row
from row import make as calling
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lowrank.allocation import Budget, MixedAllocation, NormError, Sensitivity
from lowrank.allocation.allocation import Problem
from lowrank.allocation.losses import OutputDistance
from lowrank.calibration import (
    CalibratedNorms,
    Calibration,
    IdentityNorms,
    Statistics,
    at_hand,
    norm_named,
)
from lowrank.compression.compress import compress
from lowrank.decomposers import ALPS, GPTQ, HQQ, MagnitudePruning, SparseGPT, TruncatedSVD
from lowrank.model.sites import find_sites
from lowrank.norms import Diagonal, Full
from lowrank.recovery import BatchNormReestimation, BiasCorrection, InOrder, Tune
from lowrank.tasks import Batch, Split, Task

FULL, DIAGONAL = CalibratedNorms("full"), CalibratedNorms("diagonal")
NAN, INF = float("nan"), float("inf")
X = torch.arange(32.0).view(4, 8) / 32
IDS = torch.arange(1, 7).view(2, 3)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


class Words(nn.Module):
    """Takes ids and a mask by name, as language models do."""

    def __init__(self):
        super().__init__()
        self.table, self.layer, self.idle = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, input_ids, attention_mask=None, bias=None):
        return self.layer(self.table(input_ids))


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        return self.blocks[0](x)


class Counts(nn.Module):
    """Returns whole numbers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x):
        return self.layer(x).argmax(-1)


class Breaks(nn.Module):
    """Fails with an error of its own."""

    def __init__(self, error):
        super().__init__()
        self.layer, self.error = nn.Linear(8, 4), error

    def forward(self, x):
        raise self.error


class MapStyle(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[index]


def on(data, model=None, norm=FULL, method=None, where=None):
    """Compress a model on data; both may be made when the row is tried."""

    def act(_):
        given = data() if callable(data) and not isinstance(data, type) else data
        return compress(
            network() if model is None else model(),
            GPTQ(bits=4) if method is None else method,
            where,
            norm=norm,
            data=given,
        )

    return act


def words(batch, **options):
    return on([batch], Words, **options)


def mixing(data, **options):
    """Choose by how far the outputs move, which runs the model on data."""
    mix = MixedAllocation([GPTQ(bits=2)], Budget(ratio=2, of="layers"))
    return on(data, norm=None, method=mix, **options)


def without(values, index):
    return values.index_fill(0, torch.tensor([index]), NAN)


DATA = [
    Row("no data", on(None), "needs calibration data"),
    Row("an empty list", on([]), "non-empty list of batches.* list that is empty"),
    Row("an empty loader", on(lambda: DataLoader([], batch_size=2)), "DataLoader that is empty"),
    Row("a number", on(3), "a loader of such, or a task; got int"),
    Row("one tensor", on(X), r"got one Tensor: give \[data\] or data.split"),
    Row("one array", on(X.numpy()), r"give \[torch.from_numpy\(data\)\]"),
    Row("one mapping", on({"input": X}), r"got one dict: give \[data\]$"),
    Row("one text", on("Once upon a time"), "or a task; got str"),
    Row("bytes", on(b"abc"), "or a task; got bytes"),
    Row("a class of data", on(DataLoader), "got the class DataLoader"),
    Row("a dataset without batches", on(MapStyle), "got the class MapStyle"),
    Row("a dataset that only counts", on(lambda: MapStyle()), "or a task; got MapStyle"),
    Row("a generator", on(lambda: (x for x in X)), r"only once: give list\(data\)"),
    Row("a zip", on(lambda: zip([X], [X], strict=True)), "got a zip, which can be gone through"),
    Row("a loader's iterator", on(lambda: iter(DataLoader(X))), "Iter, which can be gone"),
    Row("data of the identity", on(3, norm=None), "non-empty list of batches"),
    Row("handed to at_hand", calling(at_hand, 1.5), "or a task; got float"),
    Row("texts", on(["Once upon a time"]), "calibration batch 0 is text: tokenize first"),
    Row("a text by name", words({"input_ids": "Once"}), "batch 0 is text: tokenize first"),
    Row("lists of numbers", words({"input_ids": [[1, 2]]}), "holds no examples in tensors"),
    Row("an empty mapping", on([X, {}]), r"calibration batch 1 \(a dict\) holds no examples"),
    Row("nothing in a batch", on([None]), r"batch 0 \(a NoneType\) holds no examples"),
    Row("no examples in a batch", on([X, X[:0]]), r"batch 1 \(\(0, 8\) float32\) holds no exam"),
    Row("arrays", on([X.numpy()]), "batch 0: .* hold a ndarray.*torch.from_numpy"),
    Row("an array by name", words({"input_ids": np.ones(2)}), "argument input_ids: .* ndarray"),
    Row("an object", on([(X, object())]), r"argument \[1\]: .*hold a object"),
    Row("without values", on([X.to("meta")]), "on the device meta has no values"),
    Row("NaN", on([X, without(X, 2)]), "batch 1, argument input: 8 of 32 values are NaN"),
    Row("infinite", on([X / 0]), "argument input: 32 of 32 values are NaN or infinite"),
    Row("NaN in half precision", on([X.half() * NAN]), "32 of 32 values are NaN or infinite"),
    Row(
        "minus infinity in no mask",
        words({"input_ids": IDS, "scores": torch.tensor([-INF])}),
        "argument scores: 1 of 1 values are NaN or infinite",
    ),
    Row(
        "infinite in a bias",
        words({"input_ids": IDS, "bias": torch.tensor([INF, -INF])}),
        "argument bias: 1 of 2 values",
    ),
    Row("a vector for an example", on([X[0]]), r"shape \(8,\) has no axis of examples.*stack"),
    Row(
        "an image for an example",
        on([torch.ones(1, 4, 4)], lambda: nn.Sequential(nn.Conv2d(1, 2, 3))),
        r"layer '0': its input of shape \(1, 4, 4\) has no axis of examples",
    ),
    Row(
        "rows of a loader of nothing",
        on(lambda: DataLoader(X, batch_size=None)),
        "has no axis of examples, and neither has calibration batch 0",
    ),
    Row("wrong width", on([X[:, :5]]), r"batch 0 \(\(4, 5\) float32\): RuntimeError: mat1"),
    Row("wrong width later", on([X, X[:, 1:]]), r"cannot run calibration batch 1 \(\(4, 7\) fl"),
    Row("whole numbers", on([X.long()]), r"batch 0 \(\(4, 8\) int64\): .*same dtype"),
    Row("numbers of another size", on([X.double()]), r"\(4, 8\) float64\): .*same dtype"),
    Row("numbers for ids", words({"input_ids": X[:, :3]}), "float32.*: RuntimeError: .*'indices'"),
    Row("ids that do not exist", words({"input_ids": IDS * 9}), "IndexError: index out of range"),
    Row("ids below 0", words({"input_ids": IDS - 9}), "IndexError: index out of range"),
    Row("an argument too many", on([(X, X)]), "tuple of 2, .* leave out what is no input"),
    Row(
        "labels of a loader",
        on(lambda: DataLoader(TensorDataset(X, X[:, 0]), batch_size=2)),
        "tuple of 2, .*does not take them",
    ),
    Row("an unknown name", words({"ids": IDS}), r"gives the arguments \['ids'\], which the model"),
    Row("a name that is none", on([{0: X}]), "batch 0 has the key 0, and"),
    Row("a missing argument", words({"attention_mask": IDS}), "missing a required argument"),
    Row("an assertion of the model", on([X], lambda: Breaks(AssertionError("odd"))), ": odd. A ba"),
    Row("a ValueError of the model", on([X], lambda: Breaks(ValueError("odd"))), r"32\): ValueErr"),
    Row("a model that says nothing", on([X], lambda: Breaks(KeyError())), "KeyError: . A batch"),
    Row("no forward", on([X], lambda: nn.ModuleList([nn.Linear(8, 8)])), "NotImplementedError"),
    Row("wrong width, by the outputs", mixing([X[:, :5]]), "batch 0 .*mat1 and mat2"),
    Row("NaN, by the outputs", mixing([X * NAN]), "argument input: 32 of 32 values"),
    Row("texts, by the outputs", mixing(["a"]), "tokenize first"),
    Row("whole numbers as outputs", mixing([X], model=Counts), "without floating-point tensors"),
    Row("no data, by the outputs", mixing(None), "measured on calibration data: give `data`"),
]


def statistics_of(model, norm=FULL, sites=None):
    return norm.calibrate(model, sites or find_sites(model), [X])


def indefinite(entry):
    """With eigenvalues of 4 and far below zero, and a diagonal of ones."""
    columns = 4 * torch.eye(len(entry.columns)) - 3 * torch.ones(entry.columns.shape)
    return entry._replace(columns=columns)


def kept(
    change=None,
    norm=FULL,
    used_by=FULL,
    model_change=None,
    sites=slice(None),
    method=TruncatedSVD(rank=2),  # noqa: B008
    source=None,
):
    """Compress with statistics that do not fit."""

    def act(_):
        model = network()
        found = statistics_of(model, norm, find_sites(model)[sites])
        if change is not None:
            entries = {n: change(entry) for n, entry in found.statistics.items()}
            found = Calibration(entries, found.source)
        if source is not None:
            found = Calibration(found.statistics, {**found.source, **source})
        other = copy.deepcopy(model)
        if model_change is not None:
            model_change(other)
        return compress(other, method, norm=used_by, data=found)

    return act


def shift(model):
    with torch.no_grad():
        model[0].bias += 1


def swap(model):
    model[1] = nn.Tanh()


def trial_with_statistics(_):
    model = network()
    problem = Problem(model, find_sites(model), IdentityNorms(), statistics_of(model))
    return OutputDistance(problem, None, 4)


KEPT = [
    Row("statistics of other weights", kept(model_change=shift), "differ .* in model"),
    Row("statistics of another activation", kept(model_change=swap), "differ .* in model"),
    Row("statistics of another moment", kept(norm=DIAGONAL), "differ .* in moment"),
    Row(
        "statistics without outputs",
        kept(used_by=CalibratedNorms("full", outputs=True)),
        "differ .* in outputs",
    ),
    Row("statistics of fewer layers", kept(sites=slice(1)), r"none of the layers \['2'\]"),
    Row(
        "statistics in sequence",
        kept(used_by=CalibratedNorms("full", mode="sequential")),
        "statistics made before are for mode='one-shot'",
    ),
    Row("statistics that move no outputs", trial_with_statistics, "measured on calibration data"),
    Row(
        "statistics with a NaN",
        kept(lambda e: e._replace(columns=e.columns * NAN)),
        "layer '0': .*64 entries|layer '0': .* NaN or infinite",
    ),
    Row(
        "statistics of another width",
        kept(lambda e: e._replace(columns=torch.eye(5))),
        "length 5 do not fit a weight of shape",
    ),
    *(
        Row(
            f"statistics that are no second moment for {type(method).__name__}",
            kept(indefinite, method=method),
            "nothing about any .* '0': a second moment has no negative eigenvalues",
        )
        for method in (TruncatedSVD(rank=2), ALPS(0.5), GPTQ(bits=4), SparseGPT(0.5))
    ),
    Row(
        "statistics of another kind than they say",
        kept(lambda e: e._replace(columns=e.columns.diagonal().clone())),
        r"moment='full' .* make columns \(in, in\) and no rows, .* have columns \(in,\) and no ro",
    ),
    Row(
        "statistics of outputs that were not asked for",
        kept(lambda e: e._replace(rows=torch.ones(8))),
        r"outputs=False make columns \(in, in\) and no rows, .* \(in, in\) and rows",
    ),
    Row(
        "statistics as of a table",
        kept(lambda e: e._replace(columns=None, rows=torch.ones(8))),
        "these statistics have no columns and rows",
    ),
    Row(
        "statistics over nothing",
        kept(lambda e: e._replace(count=0)),
        "columns are means over count=0 positions",
    ),
    Row(
        "statistics with a note for a terminal",
        kept(lambda e: e._replace(notes=("\x1b[2J",))),
        "must be lines of text",
    ),
    Row("statistics whose source says more", kept(source={"more": 1}), r"has \['more'\] besides"),
    Row("statistics of data in lines", kept(source={"data": "a\nb"}), "data that are no hash"),
    Row(
        "statistics of nothing",
        kept(lambda e: Statistics(None, None, 0, ("it was not there",))),
        "say nothing about any selected layer: layer '0': it was not there",
    ),
]


def masked(mask, **options):
    return words({"input_ids": IDS, "attention_mask": mask}, **options)


LOWEST = torch.finfo(torch.float32).min

MASKS = [
    Row("a mask of zeros", masked(torch.zeros(2, 3).long()), "batch 0 is all padding by attention"),
    Row("a mask of False", masked(torch.zeros(2, 3).bool()), "no position of any example is real"),
    Row("a mask of added numbers", masked(torch.full((2, 3), -INF)), "all padding by attention_m"),
    Row(
        "a mask of four axes that hides all",
        masked(torch.full((2, 1, 3, 3), LOWEST)),
        "all padding by attention_mask",
    ),
    Row(
        "a mask in another batch",
        on([{"input_ids": IDS}, {"input_ids": IDS, "attention_mask": IDS * 0}], Words),
        "calibration batch 1 is all padding",
    ),
    Row(
        "a mask of zeros in sequence",
        masked(IDS * 0, norm=CalibratedNorms("full", mode="sequential")),
        "is all padding",
    ),
    Row(
        "a mask of zeros without names",
        on([(IDS, IDS * 0)], Words),
        "all padding by attention_mask",
    ),
    Row(
        "a mask of torch that is all True",
        on(
            [{"src": X[None], "src_key_padding_mask": torch.ones(1, 4).bool()}],
            lambda: nn.TransformerEncoderLayer(8, 2, 8, batch_first=True),
        ),
        "all padding by src_key_padding_mask",
    ),
    Row("a mask with NaN", masked(torch.tensor([[1.0, NAN, 1], [1, 1, 1]])), "1 of 6 values are"),
]


@dataclass(frozen=True)
class Rows(Split):
    real: int

    def __len__(self):
        return 4

    def batch(self, rows):
        x = X[rows]
        return Batch((x,), x, {0: torch.arange(8).expand(x.shape) < self.real})


@dataclass(frozen=True)
class Made(Task):
    """Numbers, of which all are padding if `real` is 0."""

    real: int = 8
    seed: int = 0
    device: str = "cpu"
    name = "made"
    architecture = "made"

    def network(self):
        return network()

    def model(self):
        return network().eval()

    def split(self, name):
        return Rows(self.real)

    def loss(self, outputs, targets):
        return outputs.sum()

    def metrics(self):
        raise NotImplementedError

    def example(self, batch_size=1):
        return (X[:batch_size],)


def recovering(recovery, task=Made(), model=network):  # noqa: B008
    return lambda _: recovery.recover(model(), task)


class Crossed(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, queries, keys, values):
        return self.attention(queries, keys, values)[0]


def normal(name="running"):
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, track_running_stats=name == "running"))


REACHED = [
    Row("an idle layer alone", words({"input_ids": IDS}, where="idle"), "layer 'idle': no exampl"),
    Row(
        "an idle layer in sequence",
        on([X], Blocks, CalibratedNorms("full", mode="sequential"), where="blocks.2"),
        "say nothing about any selected layer: layer 'blocks.2': no example",
    ),
    Row(
        "a weight that multiplies several inputs",
        on([(X[:, None],) * 3], Crossed, where="attention"),
        "layer 'attention': its packed projection multiplies queries, keys and values, which are",
    ),
    Row(
        "no blocks",
        words({"input_ids": IDS}, norm=CalibratedNorms("full", mode="sequential")),
        "Words has none. Use mode='one-shot'",
    ),
    Row("inputs too large", on([X * 1e30]), "layer '0': its inputs .* too large for float32"),
    Row(
        "no loss",
        on([X], norm=CalibratedNorms("fisher"), method=TruncatedSVD(rank=2)),
        "the model returns no loss",
    ),
    Row("no loss for outputs", on([X], norm=CalibratedNorms("full", outputs=True)), "no loss"),
    Row("all padding of a task", on(Made(real=0)), "of the task 'made' is all padding"),
    Row(
        "all padding of a task, by the outputs",
        mixing(Made(real=0)),
        "batch 0 of the task 'made' is all padding",
    ),
]

NORMS = [
    Row("unknown moment", calling(CalibratedNorms, "half"), "moment='half' must be one of"),
    Row("moment of another type", calling(CalibratedNorms, None), "moment=None must be one of"),
    Row("unknown mode", calling(CalibratedNorms, "full", mode="block"), "mode='block' must be one"),
    Row(
        "negative damping", calling(CalibratedNorms, "full", -1e-3), "damping=-0.001 must be at le"
    ),
    Row("damping NaN", calling(CalibratedNorms, "full", NAN), "damping=nan must be at least 0"),
    Row("infinite damping", calling(CalibratedNorms, "full", INF), "damping=inf must be .*finite"),
    Row(
        "damping as text",
        calling(CalibratedNorms, "full", "1%"),
        "damping='1%' must be a number: it must be at least 0",
    ),
    Row("damping as a switch", calling(CalibratedNorms, "full", True), "damping=True must be"),
    Row("power of a full moment", calling(CalibratedNorms, "full", power=0.5), "is for a diagonal"),
    Row("power 0", calling(CalibratedNorms, "diagonal", power=0), r"power=0 must lie in \(0, 1\]"),
    Row("power above 1", calling(CalibratedNorms, "diagonal", power=2), "power=2 must lie in"),
    Row("power as text", calling(CalibratedNorms, "diagonal", power="1"), "must be a number"),
    Row("no examples at once", calling(CalibratedNorms, "full", batch_size=0), "batch_size=0 must"),
    Row("half an example", calling(CalibratedNorms, "full", batch_size=1.5), "an integer"),
    Row("outputs as text", calling(CalibratedNorms, "full", outputs="no"), "must be True or False"),
    Row(
        "outputs in sequence",
        calling(CalibratedNorms, "full", outputs=True, mode="sequential"),
        "needs the loss at the end",
    ),
    Row(
        "Fisher in sequence",
        calling(CalibratedNorms, "fisher", mode="sequential"),
        "mode='sequential' stops each pass",
    ),
    Row(
        "unknown name of a norm", calling(norm_named, "gram"), "'identity', 'diagonal', 'full', 'f"
    ),
    Row("no name of a norm", calling(norm_named, None), "norm=None must be one of"),
    Row("a norm a method does not know", on([X], norm=DIAGONAL, method=HQQ(bits=4)), "HQQ cannot"),
    Row("a full norm for scores", on([X], method=MagnitudePruning(0.5)), r"norm Full"),
    Row("Diagonal of nothing", calling(Diagonal), "needs columns or rows"),
    Row("Diagonal of a list", calling(Diagonal, [1.0, 2.0]), "columns: a tensor .* not list"),
    Row("Diagonal of a matrix", calling(Diagonal, torch.eye(2)), "non-empty vector is needed"),
    Row("Diagonal of no columns", calling(Diagonal, torch.ones(0)), r"not shape \(0,\)"),
    Row("Diagonal of truth values", calling(Diagonal, torch.ones(2) > 0), "not torch.bool"),
    Row("negative columns", calling(Diagonal, torch.tensor([1.0, -2])), "columns: -2 is negative"),
    Row("columns all zero", calling(Diagonal, torch.zeros(3)), "columns: all 3 are zero"),
    Row("columns with NaN", calling(Diagonal, torch.tensor([1.0, NAN])), "columns: 1 of 2 are NaN"),
    Row(
        "rows with an infinity", calling(Diagonal, None, torch.tensor([INF, 1, 1])), "rows: 1 of 3"
    ),
    Row("rows all zero", calling(Full, torch.eye(2), torch.zeros(2)), "rows: all 2 are zero"),
    Row("damping of a Diagonal", calling(Diagonal, torch.ones(2), None, -1), "damping=-1 must be"),
    Row("Full of an array", calling(Full, np.eye(2)), "a second moment: a tensor .* not ndarray"),
    Row("Full of a vector", calling(Full, torch.ones(3)), r"square .* matrix, not \(3,\)"),
    Row("Full of a rectangle", calling(Full, torch.ones(2, 3)), r"square .*, not \(2, 3\)"),
    Row("Full of whole numbers", calling(Full, torch.eye(2).long()), "not .* torch.int64"),
    Row("Full of complex numbers", calling(Full, torch.eye(2) * 1j), "not torch.complex64"),
    Row(
        "Full with NaN", calling(Full, torch.tensor([[1, NAN], [NAN, 1]])), "2 entries of a second"
    ),
    Row("Full of one triangle", calling(Full, torch.ones(3, 3).tril()), "must be symmetric"),
    Row("Full with a negative diagonal", calling(Full, -torch.eye(2)), "-1 is negative"),
    Row("Full of zeros", calling(Full, torch.zeros(2, 2)), "all 2 are zero"),
    Row(
        "damping of a Full",
        calling(Full, torch.eye(2), None, "1"),
        "damping='1' must be a number: it must be at least 0",
    ),
    Row(
        "Full that is no second moment",
        lambda _: Full(torch.tensor([[1.0, 2], [2, 1]]), damping=10),
        "no negative eigenvalues, and this matrix has -1 beside 3: calibrate anew",
    ),
    Row(
        "Full of high rank that is no second moment",
        calling(Full, 4 * torch.eye(16) - 3 * torch.ones(16, 16)),
        "no negative eigenvalues, and this matrix has -44 beside 4",
    ),
    Row(
        "Diagonal of another width",
        lambda _: TruncatedSVD(rank=1).decompose(torch.ones(2, 3), Diagonal(torch.ones(4))),
        r"columns of length 4 do not fit a weight of shape \(2, 3\), which needs 3",
    ),
    Row(
        "rows of another height",
        lambda _: TruncatedSVD(rank=1).decompose(
            torch.ones(2, 3), Full(torch.eye(3), torch.ones(3))
        ),
        "rows of length 3 do not fit",
    ),
]

SETTINGS = [
    Row("no epochs", calling(Tune, epochs=0), "epochs=0 must be at least 1"),
    Row("half an epoch", calling(Tune, epochs=0.5), "epochs=0.5 must be at least 1 and an integer"),
    Row("no learning rate", calling(Tune, learning_rate=0), "learning_rate=0 must be above 0"),
    Row("learning rate NaN", calling(Tune, learning_rate=NAN), "learning_rate=nan must be above"),
    Row("negative code rate", calling(Tune, code_rate=-1), "code_rate=-1 must be above 0"),
    Row("no batch", calling(Tune, batch_size=0), "batch_size=0 must be at least 1"),
    Row("no parts", calling(Tune, parts=[]), r"parts=\[\] must be a list of some of scales"),
    Row("parts as one text", calling(Tune, parts="scales"), "parts='scales' must be a list of"),
    Row("an unknown part", calling(Tune, parts=["masks"]), "parts='masks' must be one of"),
    Row("parts in a list", calling(Tune, parts=[["scales"]]), r"parts=\['scales'\] must be one"),
    Row("an unseen split", calling(Tune, source="test"), "source='test' must be one of"),
    Row("one example", calling(Tune, examples=1), "examples=1 must be at least 2"),
    Row("all held out", calling(Tune, held_out=1), r"held_out=1 must lie in \(0, 1\)"),
    Row("more than there are", recovering(Tune(examples=5)), "examples=5 are more than the 4"),
    Row("none left to learn from", recovering(Tune(batch_size=4)), "leaves none to learn from"),
    Row(
        "nothing to tune",
        recovering(Tune(batch_size=1, parts=["codes"])),
        r"has none of parts=\['codes'\]",
    ),
    Row(
        "padding alone",
        recovering(Tune(batch_size=2), Made(real=0)),
        "is all padding: check `real`",
    ),
    Row("no example for biases", calling(BiasCorrection, 0), "examples=0 must be at least 1"),
    Row("a share of examples", calling(BiasCorrection, 0.5), "examples=0.5 must be .*an integer"),
    Row("gains as text", calling(BiasCorrection, gains="yes"), "gains='yes' must be True or False"),
    Row("too many for biases", recovering(BiasCorrection(5)), "examples=5 are more than the 4 of"),
    Row(
        "no bias",
        recovering(BiasCorrection(), model=lambda: nn.Sequential(nn.Linear(8, 8, bias=False))),
        "has a bias, so there is none to correct",
    ),
    Row("biases on padding alone", recovering(BiasCorrection(), Made(real=0)), "is all padding"),
    Row("no batches", calling(BatchNormReestimation, 0), "batches=0 must be at least 1"),
    Row("batches of one", calling(BatchNormReestimation, 1, 1), "batch_size=1 must be at least 2"),
    Row("batches as text", calling(BatchNormReestimation, "all"), "batches='all' must be"),
    Row(
        "batches that are not there",
        recovering(BatchNormReestimation(3, 2), model=normal),
        "need 6 examples, and the train split has 4",
    ),
    Row(
        "padding in statistics",
        recovering(BatchNormReestimation(1, 2), Made(real=3), normal),
        "batch 0 of the train split of 'made' has padding",
    ),
    Row(
        "no running statistics",
        recovering(BatchNormReestimation(1, 2), model=lambda: normal("none")),
        "no BatchNorm with running statistics",
    ),
    Row("no steps", calling(InOrder, []), r"steps=\[\] must be a list of at least one recovery"),
    Row("one step alone", calling(InOrder, Tune()), "must be a list of at least one recovery"),
    Row("a step by name", calling(InOrder, ["tune"]), "steps hold 'tune', and must be recoveries"),
    Row("no example to measure", calling(Sensitivity, 0), "examples=0 must be at least 1"),
    Row("one probe", calling(Sensitivity, probes=1), "probes=1 must be at least 2"),
    Row("no batch to measure", calling(Sensitivity, batch_size=0), "batch_size=0 must be at least"),
    Row(
        "rivals that need data",
        on(None, norm=None, method=MixedAllocation([GPTQ(bits=2)], Budget(ratio=2), NormError())),
        "of a MixedAllocation, rivals=0",
    ),
]

ROWS = [*DATA, *KEPT, *MASKS, *REACHED, *NORMS, *SETTINGS]
