"""Any architecture: none is named in the library, and each is compressed, saved, loaded and run."""

import copy
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, MASK, dense, logits
from torch import Tensor, nn

from lowrank.calibration import CalibratedNorms
from lowrank.compression.compress import compress
from lowrank.decomposers import (
    GPTQ,
    Chain,
    CodebookQuantization,
    HalfPrecision,
    LoRA,
    LowRankPlusSparse,
    MagnitudePruning,
    Quantization,
    SparseGPT,
    TruncatedSVD,
)
from lowrank.export import checkpoint
from lowrank.measure import body_bytes, nbytes
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.select import Select

transformers = pytest.importorskip("transformers")

METHODS = {
    "low rank": TruncatedSVD(rank=2),
    "sparse": MagnitudePruning(0.5),
    "quantized": Quantization(4, group_size=8),
    "codebook": CodebookQuantization(3),
    "hybrid": LowRankPlusSparse(1, 0.8),
    "QLoRA": LoRA(rank=2, alpha=4, base=Quantization(4)),
    "chain": Chain([TruncatedSVD(rank=2), Quantization(8)]),
    "half": HalfPrecision("bfloat16"),
}

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
every_tied = pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if a.tied])


def plain(model: nn.Module) -> list[str]:
    """The names of the modules that hold a weight of their own, in any way known to PyTorch."""
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding, transformers.pytorch_utils.Conv1D)
    return [name for name, module in model.named_modules() if type(module) in kinds]


def factorized(model: nn.Module) -> dict[str, FactorizedLayer]:
    return {n: m for n, m in model.named_modules() if isinstance(m, FactorizedLayer)}


@torch.no_grad()
def written_into(model: nn.Module, compressed: nn.Module) -> nn.Module:
    """The dense model with the approximated weights in its own layers."""
    model = copy.deepcopy(model)
    for name, layer in factorized(compressed).items():
        model.get_submodule(name).weight.copy_(layer.weight)
    return model


@every_architecture
@every_method
def test_it_is_compressed_saved_loaded_and_run(tmp_path, name, method):
    architecture, path = ARCHITECTURES[name], tmp_path / "model.safetensors"
    result = compress(dense(name), method)
    assert plain(result.model) == []
    assert len(result.layers) == architecture.layers
    outputs = logits(result.model, name)
    assert bool(outputs.isfinite().all())
    expected = logits(written_into(dense(name), result.model), name)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(outputs, logits(dense(name), name))

    checkpoint.save(result.model, path)
    loaded = checkpoint.load(path, architecture.make(seed=1))
    assert torch.equal(logits(loaded, name), outputs)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size - header == nbytes(result.model) == nbytes(loaded)


@every_architecture
def test_what_is_left_out_is_listed(name):
    architecture = ARCHITECTURES[name]
    result = compress(dense(name), Quantization(8))
    assert {skipped for skipped, _ in result.skipped} == architecture.skipped
    assert all(reason.startswith("no rule for a") for _, reason in result.skipped)


@every_tied
@pytest.mark.parametrize("method", [METHODS["low rank"], METHODS["QLoRA"]])
def test_tied_weights_stay_tied(tmp_path, name, method):
    first, *others = ARCHITECTURES[name].tied
    result = compress(dense(name), method)
    report = next(layer for layer in result.layers if layer.name == first)
    assert report.tied_to == others
    checkpoint.save(result.model, tmp_path / "model.safetensors")
    loaded = checkpoint.load(tmp_path / "model.safetensors", ARCHITECTURES[name].make(seed=1))
    for model in (result.model, copy.deepcopy(result.model), loaded, loaded.bfloat16()):
        forms = {id(model.get_submodule(module).factorization) for module in (first, *others)}
        assert len(forms) == 1


@every_tied
def test_a_part_of_tied_weights_is_never_compressed_alone(name):
    """What is asked for by the name of one of them is done to all."""
    *_, last = ARCHITECTURES[name].tied
    model = compress(dense(name), TruncatedSVD(rank=2), where=last).model
    assert set(factorized(model)) == set(ARCHITECTURES[name].tied)


@every_architecture
def test_embeddings_and_head_are_in_or_out(name):
    architecture = ARCHITECTURES[name]
    everything = compress(dense(name), Quantization(8))
    names = [layer.name for layer in everything.layers]
    without = compress(dense(name), Quantization(8), where=Select(embeddings=False))
    assert {layer.name for layer in without.layers} == set(names) - architecture.tables
    blocks = compress(dense(name), Quantization(8), where=Select(embeddings=False, last=False))
    outside = architecture.tables | {architecture.head}
    assert {layer.name for layer in blocks.layers} == set(names) - outside
    body = [body_bytes(result.model) for result in (everything, without, blocks)]
    assert body[0] == body[1] == body[2] < body_bytes(dense(name))
    assert nbytes(everything.model) <= nbytes(without.model) <= nbytes(blocks.model)


@pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if a.generates])
def test_a_compressed_model_generates_what_its_dense_twin_does(name):
    model = compress(dense(name), TruncatedSVD(rank=4)).model
    first = next(iter(ARCHITECTURES[name].inputs.values()))[:1]
    ours, twins = (
        m.generate(first, max_new_tokens=5, do_sample=False, pad_token_id=0)
        for m in (model, written_into(dense(name), model))
    )
    assert torch.equal(ours, twins) and ours.shape[1] > 1


@every_architecture
@pytest.mark.parametrize("method", [METHODS["low rank"], METHODS["sparse"], METHODS["QLoRA"]])
def test_in_half_precision(tmp_path, name, method):
    architecture, path = ARCHITECTURES[name], tmp_path / "model.safetensors"
    model = architecture.make().bfloat16()
    inputs = {
        n: x.bfloat16() if x.is_floating_point() else x for n, x in architecture.inputs.items()
    }
    result = compress(model, method).model
    with torch.no_grad():
        outputs = result(**inputs).logits
        checkpoint.save(result, path)
        loaded = checkpoint.load(path, architecture.make(seed=1).bfloat16())
        assert torch.equal(loaded(**inputs).logits, outputs)
    assert outputs.dtype == torch.bfloat16 and bool(outputs.isfinite().all())


@every_architecture
def test_adapters_are_trained(name):
    result = compress(dense(name), LoRA(rank=2, alpha=4)).model.train()
    trained = {n: p for n, p in result.named_parameters() if p.requires_grad and ".term." in n}
    result(**ARCHITECTURES[name].inputs).logits.square().sum().backward()
    idle = [n for n, parameter in trained.items() if parameter.grad is None]
    assert trained and not idle


CALIBRATED = {
    "low rank": ("full", "one-shot", TruncatedSVD(rank=2)),
    "low rank in sequence": ("full", "sequential", TruncatedSVD(rank=2)),
    "quantized in sequence": ("full", "sequential", GPTQ(3)),
    "sparse": ("full", "one-shot", SparseGPT(0.5)),
    "sparse in sequence": ("diagonal", "sequential", MagnitudePruning(0.5, within="row")),
}


@every_architecture
@pytest.mark.parametrize(("moment", "mode", "method"), CALIBRATED.values(), ids=CALIBRATED.keys())
def test_it_is_calibrated(tmp_path, name, moment, mode, method):
    architecture, norm = ARCHITECTURES[name], CalibratedNorms(moment, mode=mode)
    result = compress(dense(name), method, norm=norm, data=[architecture.inputs] * 2)
    assert plain(result.model) == [] and len(result.layers) == architecture.layers
    # Tables that no layer multiplies with count their rows.
    tables = architecture.tables - set(architecture.tied)
    norms = {layer.name: layer.norm for layer in result.layers}
    assert {table for table in norms if norms[table] != moment} == (
        tables if moment == "full" else set()
    )
    assert all(layer.norm_error < 1 for layer in result.layers)
    assert result.calibration is not None and result.calibration["mode"] == mode
    outputs = logits(result.model, name)
    assert bool(outputs.isfinite().all())
    checkpoint.save(result.model, tmp_path / "model.safetensors")
    loaded = checkpoint.load(tmp_path / "model.safetensors", architecture.make(seed=1))
    assert torch.equal(logits(loaded, name), outputs)


@every_architecture
def test_the_full_norm_changes_the_outputs_of_each_layer_least(name):
    """One-shot: all are judged by the inputs that the dense model gives its layers."""
    calibrated = {"norm": CalibratedNorms("full", damping=0.0)}
    data = [ARCHITECTURES[name].inputs]
    ours = compress(dense(name), TruncatedSVD(rank=2), data=data, **calibrated)
    blind = compress(dense(name), TruncatedSVD(rank=2))
    judged = {layer.name: layer for layer in ours.layers}
    seen = inputs_of(dense(name), name, [n for n in judged if judged[n].norm == "full"])
    assert seen
    for layer, x in seen.items():
        dense_weight = as_matrix(dense(name).get_submodule(layer))
        errors = [
            torch.linalg.norm((dense_weight - as_matrix(m.get_submodule(layer))) @ x.T)
            / torch.linalg.norm(dense_weight @ x.T)
            for m in (ours.model, blind.model)
        ]
        # Sums of float32 products leave the roots of their rounding errors.
        assert errors[0] <= errors[1] + 1e-3
        assert errors[0] == pytest.approx(judged[layer].norm_error, abs=1e-3)


def as_matrix(layer: nn.Module) -> Tensor:
    """The matrix (out, in) of a layer, whatever it is."""
    if isinstance(layer, FactorizedLayer):
        return layer.factorization.to_dense().detach().double()
    weight = layer.weight.detach().double()
    return weight.T if isinstance(layer, transformers.pytorch_utils.Conv1D) else weight


def inputs_of(model: nn.Module, name: str, layers: list[str]) -> dict[str, Tensor]:
    """What linear layers of their own weight are given at positions that are no padding."""
    found: dict[str, list[Tensor]] = {layer: [] for layer in layers}

    def keep(layer: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            x = args[0].reshape(-1, args[0].shape[-1]).double()  # Some are flat already.
            masked = "attention_mask" in inputs and len(x) == MASK.numel()
            found[layer].append(x[MASK.flatten().bool()] if masked else x)

        return hook

    inputs = ARCHITECTURES[name].inputs
    kinds = (nn.Linear, transformers.pytorch_utils.Conv1D)
    tied = ARCHITECTURES[name].tied
    handles = [
        model.get_submodule(layer).register_forward_pre_hook(keep(layer))
        for layer in layers
        if isinstance(model.get_submodule(layer), kinds) and layer not in tied
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return {layer: torch.cat(x) for layer, x in found.items() if x}
