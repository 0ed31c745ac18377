"""Every kind of layer: compressed in every family, calibrated in every norm, counted, trained,
saved, loaded and optimised."""

import copy

import pytest
import torch
import torch.nn.functional as F
from kinds_of_layers import KINDS, Model, random
from torch import nn

from lowrank.calibration import Batches, CalibratedNorms
from lowrank.calibration.collect import collect
from lowrank.compression.compress import compress
from lowrank.decomposers import (
    BlockLowRank,
    CanonicalPolyadic,
    Chain,
    CodebookQuantization,
    DoRA,
    EntropyCodedQuantization,
    HalfPrecision,
    LoRA,
    LowRankPlusSparse,
    MagnitudePruning,
    Quantization,
    SharedLoRA,
    TruncatedSVD,
    Tucker2,
)
from lowrank.execution import Search, optimize_for
from lowrank.export import checkpoint
from lowrank.measure import macs, nbytes
from lowrank.model.copying import copied
from lowrank.model.layers import rule_for
from lowrank.model.opened import open_weights
from lowrank.model.sites import find_sites

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

FAMILIES = {
    "low rank": TruncatedSVD(rank=2),
    "low rank along axes": TruncatedSVD(rank=2, view="spatial"),
    "tensor": Tucker2(ranks=(2, 2)),
    "outer products": CanonicalPolyadic(rank=2, iterations=3),
    "sparse": MagnitudePruning(0.5),
    "quantized": Quantization(4),
    "codebook": CodebookQuantization(3),
    "hybrid": LowRankPlusSparse(1, 0.8),
    "QLoRA": LoRA(rank=2, alpha=4, base=Quantization(4)),
    "DoRA": DoRA(LoRA(2, 4, init="residual", base=Quantization(4))),
    "shared factor": SharedLoRA(1, 2, compress_base=True),
    "entropy coded": EntropyCodedQuantization(6),
    "blocks": BlockLowRank(1, (2, 2)),
    "chain": Chain([TruncatedSVD(rank=2), Quantization(8)]),
    "half": HalfPrecision("bfloat16"),
}

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
every_family = pytest.mark.parametrize("method", FAMILIES.values(), ids=FAMILIES.keys())


def outputs(model, kind):
    with torch.no_grad():
        return model(*kind.inputs)


def written_into(kind, result):
    """The dense model with the approximated weights in its own layers."""
    model = open_weights(copied(kind.dense()).model).model
    sites = {site.name: site for site in find_sites(model)}
    for name in kind.names:
        use, layer = sites[name].uses[0], result.model.get_submodule(name)
        matrix = layer.factorization.to_dense()
        with torch.no_grad():
            use.rule.weight(use.module).copy_(use.rule.as_weight(use.module, matrix, layer.view))
    return model


@every_kind
@every_family
def test_it_runs_its_factors_and_comes_back_from_a_file(kind, method, tmp_path):
    if method is FAMILIES["blocks"] and kind.reads:
        return  # Their weights are too small for it.
    result = compress(kind.dense(), method)
    assert tuple(layer.name for layer in result.layers) == kind.names
    assert not result.skipped and not result.left
    y = outputs(result.model, kind)
    torch.testing.assert_close(y, outputs(written_into(kind, result), kind))
    checkpoint.save(result.model, tmp_path / "m.safetensors")
    loaded = checkpoint.load(tmp_path / "m.safetensors", Model(kind.made(seed=1)).eval())
    assert torch.equal(outputs(loaded, kind), y)
    size = (tmp_path / "m.safetensors").read_bytes()
    assert len(size) - 8 - int.from_bytes(size[:8], "little") == nbytes(result.model)


class WithLoss(Batches):
    def loss(self, model, batch):
        return batch.run(model).square().mean()


@every_kind
@pytest.mark.parametrize("moment", ["identity", "diagonal", "full", "fisher"])
def test_it_is_calibrated_in_every_norm(kind, moment):
    """In the full norm no matrix of that rank changes the outputs less."""
    data = None if moment == "identity" else WithLoss([kind.inputs])
    norm = moment if data is None else CalibratedNorms(moment, damping=0.0)
    method = TruncatedSVD(rank=2, view="channel")
    result = compress(kind.dense(), method, norm=norm, data=data)
    assert [layer.norm for layer in result.layers] == [moment.replace("fisher", "diagonal")] * len(
        kind.names
    )
    assert all(0 < layer.norm_error < 1 for layer in result.layers)
    if moment == "full" and kind.linear and getattr(kind.dense().layer, "groups", 1) == 1:
        y, blind = outputs(kind.dense(), kind), compress(kind.dense(), method).model
        errors = [(outputs(model, kind) - y).norm() for model in (result.model, blind)]
        assert errors[0] < errors[1] * (1 - 1e-6)


@every_kind
def test_the_second_moment_gives_the_change_of_the_outputs(kind):
    """‖(W + D)(x) − W(x)‖² is tr(D B Dᵀ) for each position, whatever the layer does with D."""
    if not kind.linear or getattr(kind.dense().layer, "groups", 1) > 1:
        return
    model = open_weights(kind.dense()).model
    found = collect(model, kind.names, Batches([kind.inputs]), full=True)[kind.names[0]]
    use = find_sites(model)[0].uses[0]
    changed = copy.deepcopy(model)
    weight = use.rule.weight(changed.layer)
    change = random(*weight.shape, seed=7)
    with torch.no_grad():
        weight.add_(change)
    matrix = use.rule.as_matrix(use.module, change, "channel")
    energy = (outputs(changed, kind) - outputs(model, kind)).square().sum()
    told = found.count * torch.einsum("oi,ij,oj->", matrix, found.columns, matrix)
    torch.testing.assert_close(told, energy)
    diagonal = collect(model, kind.names, Batches([kind.inputs]), full=False)[kind.names[0]]
    torch.testing.assert_close(diagonal.columns, found.columns.diagonal())


@every_kind
def test_its_multiplications_are_counted(kind):
    example = tuple(x[:1] for x in kind.inputs)
    # A parametrization multiplies too, and is gone.
    assert macs(open_weights(kind.dense()).model, example) == kind.macs
    result = compress(kind.dense(), TruncatedSVD(rank=1), example=example)
    if kind.reads:
        assert all(layer.kernel == "multiplied out" for layer in result.layers)
        assert {layer.macs for layer in result.layers} == {None}
        quantized = compress(kind.dense(), Quantization(8)).model
        assert macs(quantized, example) == kind.macs < macs(result.model, example)
        return
    assert sum(layer.dense_macs for layer in result.layers) == kind.macs
    assert sum(layer.macs for layer in result.layers) < kind.macs
    assert all(layer.kernel == "factored" for layer in result.layers)


@every_kind
def test_its_adapters_are_trained(kind):
    model = compress(kind.dense(), LoRA(rank=2, alpha=4)).model.train()
    model(*kind.inputs).square().sum().backward()
    trained = {n: p for n, p in model.named_parameters() if ".term." in n}
    assert len(trained) == 2 * len(kind.names)
    assert all(parameter.grad is not None for parameter in trained.values())


@every_kind
def test_it_is_optimised(kind):
    model = compress(kind.dense(), TruncatedSVD(rank=2)).model
    fast = optimize_for(model, kind.inputs, search=Search(seconds=0.001))
    torch.testing.assert_close(outputs(fast.model, kind), outputs(model, kind))
    skipped = {name for name, _ in fast.plan.skipped}
    assert skipped == (set(kind.names) if kind.reads else set())


@pytest.mark.parametrize(
    "settings", [{}, {"kdim": 4, "vdim": 5}, {"batch_first": True}, {"add_zero_attn": True}]
)
def test_calibration_sees_what_the_projection_of_attention_multiplies(settings):
    layer = nn.MultiheadAttention(6, 2, **settings).double().eval()
    sizes = 6, settings.get("kdim", 6), settings.get("vdim", 6)
    inputs = tuple(random(5, 5, size, seed=i) for i, size in enumerate(sizes))
    model = open_weights(Model(layer)).model
    found = collect(model, ["layer.out_proj"], Batches([inputs]), full=True)["layer.out_proj"]
    before, change = layer(*inputs)[0], random(6, 6)
    with torch.no_grad():
        layer.out_proj.weight.add_(change)
    energy = (layer(*inputs)[0] - before).square().sum()
    told = found.count * torch.einsum("oi,ij,oj->", change, found.columns, change)
    torch.testing.assert_close(told, energy)


def test_patches_are_those_of_unfold():
    for layer, x in [
        (nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2)), random(3, 4, 6, 7)),
        (nn.Conv2d(4, 6, 3, groups=2), random(3, 4, 6, 7)),
    ]:
        rule = rule_for(layer)
        assert rule is not None
        parts = [
            F.unfold(part, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
            for part in x.chunk(layer.groups, dim=1)
        ]
        expected = torch.cat([part.transpose(1, 2) for part in parts], dim=1)
        assert torch.equal(rule.inputs(layer, x), expected)


def test_the_patches_of_each_group_give_its_outputs():
    for layer in (
        nn.Conv1d(4, 6, 3, padding=1, groups=2, padding_mode="reflect"),
        nn.ConvTranspose1d(4, 6, 3, stride=2, dilation=2, output_padding=1, groups=2),
    ):
        layer, x = layer.double(), random(3, 4, 9)
        rule = rule_for(layer)
        assert rule is not None
        rows = rule.matrix(layer, "channel").unflatten(0, (2, 3))
        patches = rule.inputs(layer, x).unflatten(1, (2, -1))
        y = torch.einsum("ngpi,goi->ngop", patches, rows).flatten(1, 2) + layer.bias[:, None]
        torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize("size", [(11, 13), (3, 6, 12, 14)])
def test_a_transposed_convolution_takes_the_size_of_its_outputs(size):
    layer = Model(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1).double())
    x = random(3, 4, 6, 7)
    compact = compress(layer, TruncatedSVD(rank=6, view="channel")).model
    torch.testing.assert_close(compact.layer(x, list(size)), layer.layer(x, list(size)))
    torch.testing.assert_close(compact.layer(x[0], size[-2:]), layer.layer(x[0], list(size[-2:])))
    found = collect(layer, ["layer"], Batches([(x, list(size))]), full=True)["layer"]
    assert found.count == layer(x, list(size))[:, 0].numel()
    with pytest.raises(ValueError, match="valid sizes range"):
        compact.layer(x, [99, 99])


class Scaled2(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(F.dropout(x, training=self.training))


class Counting(nn.Linear):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Listing(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return super().forward(x)


class Writing(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        x.zero_()
        return y


class Biased(nn.Linear):
    def forward(self, x):
        return x @ self.weight.T + 1


class Untransposed(nn.Linear):
    def forward(self, x):
        return x @ self.weight + self.bias


@pytest.mark.parametrize(
    "cls", [Scaled2, Branching, Noisy, Counting, Listing, Writing, Biased, Untransposed]
)
def test_code_that_computes_something_else_is_not_taken_for_a_linear_layer(cls):
    layer = cls(4, 4)
    before = dict(vars(layer))
    assert rule_for(layer) is None
    assert vars(layer) == before and not getattr(layer, "seen", [])
