"""Any architecture: none is named in the library, and each is compressed, saved, loaded and run."""

import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowrank import checkpoint
from lowrank.compress import compress
from lowrank.decomposers import (
    Chain,
    CodebookQuantization,
    HalfPrecision,
    LoRA,
    LowRankPlusSparse,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
)
from lowrank.layers import FactorizedLayer
from lowrank.measure import body_bytes, nbytes
from lowrank.select import Select

transformers = pytest.importorskip("transformers")

IDS = torch.arange(12).view(2, 6) + 3
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
TEXT = {"input_ids": IDS, "attention_mask": MASK}
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Architecture:
    """A tiny random model, and what is known of it beforehand.

    Attributes:
        model, config: class names in `transformers`.
        settings: of the config.
        inputs: by name, of two examples.
        layers: how many weights can be compressed.
        tied: names of the modules that share one weight.
        tables: names of the weights that embedding tables use.
        head: the name of the last weight.
        skipped: names of the matrices that no rule knows.
        generates: whether it can go on with a text.
    """

    model: str
    config: str
    settings: dict[str, Any]
    layers: int
    tables: set[str]
    head: str
    inputs: dict[str, Tensor] = field(default_factory=lambda: TEXT)
    tied: tuple[str, ...] = ()
    skipped: set[str] = field(default_factory=set)
    generates: bool = False

    def make(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        config = getattr(transformers, self.config)(**self.settings)
        return getattr(transformers, self.model)(config).eval()


GROUPED = SIZES | {"num_key_value_heads": 2}
TABLE = {"model.embed_tokens"}

ARCHITECTURES = {
    "Llama": Architecture(
        "LlamaForCausalLM", "LlamaConfig", SIZES, 16, TABLE, "lm_head", generates=True
    ),
    "Mistral": Architecture(
        *("MistralForCausalLM", "MistralConfig", GROUPED | {"sliding_window": 4}),
        *(16, TABLE, "lm_head"),
        generates=True,
    ),
    "Qwen2": Architecture(
        *("Qwen2ForCausalLM", "Qwen2Config", GROUPED | {"tie_word_embeddings": True}),
        *(15, TABLE, "model.embed_tokens"),
        tied=("model.embed_tokens", "lm_head"),
        generates=True,
    ),
    "Qwen3": Architecture(
        *("Qwen3ForCausalLM", "Qwen3Config", GROUPED | {"head_dim": 8}),
        *(16, TABLE, "lm_head"),
        generates=True,
    ),
    "OPT": Architecture(
        *("OPTForCausalLM", "OPTConfig", SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 12}),
        *(15, {"model.decoder.embed_tokens"}, "model.decoder.embed_tokens"),
        tied=("model.decoder.embed_tokens", "lm_head"),
        skipped={"model.decoder.embed_positions.weight"},
        generates=True,
    ),
    "GPT-2": Architecture(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32} | TOKENS,
        10,
        {"transformer.wte", "transformer.wpe"},
        "transformer.wte",
        tied=("transformer.wte", "lm_head"),
        generates=True,
    ),
    "GPT-NeoX": Architecture(
        *("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES | TOKENS),
        *(10, {"gpt_neox.embed_in"}, "lm_head"),
        generates=True,
    ),
    "BERT": Architecture(
        *("BertForSequenceClassification", "BertConfig", SIZES, 17),
        {f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type")},
        "classifier",
    ),
    "BERT, masked": Architecture(
        *("BertForMaskedLM", "BertConfig", SIZES, 16),
        {f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type")},
        "bert.embeddings.word_embeddings",
        tied=("bert.embeddings.word_embeddings", "cls.predictions.decoder"),
    ),
    "T5": Architecture(
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
        | {"decoder_start_token_id": 0},
        35,
        {"shared"}
        | {
            f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias"
            for part in ("encoder", "decoder")
        },
        "shared",
        inputs=TEXT | {"decoder_input_ids": IDS[:, :4]},
        tied=("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"),
        generates=True,
    ),
    "ViT": Architecture(
        "ViTForImageClassification",
        "ViTConfig",
        SIZES | {"image_size": 16, "patch_size": 4, "num_labels": 7},
        14,
        set(),
        "classifier",
        inputs={"pixel_values": torch.linspace(-1, 1, 2 * 3 * 16 * 16).sin().view(2, 3, 16, 16)},
        skipped={"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"},
    ),
    "Whisper": Architecture(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {"vocab_size": 40, "d_model": 16, "num_mel_bins": 8, "decoder_start_token_id": 1}
        | {f"{part}_layers": 2 for part in ("encoder", "decoder")}
        | {f"{part}_attention_heads": 4 for part in ("encoder", "decoder")}
        | {f"{part}_ffn_dim": 24 for part in ("encoder", "decoder")}
        | {"max_source_positions": 10, "max_target_positions": 12}
        | TOKENS,
        34,
        # The positions of the encoder are a table that is added whole.
        {"model.decoder.embed_tokens", "model.encoder.embed_positions"},
        "model.decoder.embed_tokens",
        inputs={
            "input_features": torch.linspace(-1, 1, 2 * 8 * 20).sin().view(2, 8, 20),
            "decoder_input_ids": IDS,
        },
        tied=("model.decoder.embed_tokens", "proj_out"),
        skipped={
            "model.encoder.conv1.weight",
            "model.encoder.conv2.weight",
            "model.decoder.embed_positions.weight",
        },
        generates=True,
    ),
}

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


@cache
def dense(name: str) -> nn.Module:
    return ARCHITECTURES[name].make()


@torch.no_grad()
def logits(model: nn.Module, name: str) -> Tensor:
    return model(**ARCHITECTURES[name].inputs).logits


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
        old = model.get_submodule(name)
        transposed = isinstance(old, transformers.pytorch_utils.Conv1D)
        old.weight.copy_(layer.weight.T if transposed else layer.weight)
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
    loaded = checkpoint.load(architecture.make(seed=1), path)
    assert torch.equal(logits(loaded, name), outputs)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size - header == nbytes(result.model) == nbytes(loaded)


@every_architecture
def test_what_is_left_out_is_listed(name):
    architecture = ARCHITECTURES[name]
    result = compress(dense(name), Quantization(8))
    assert {skipped for skipped, _ in result.skipped} == architecture.skipped
    assert {reason for _, reason in result.skipped} <= {"no rule for a module that uses it"}


@every_tied
@pytest.mark.parametrize("method", [METHODS["low rank"], METHODS["QLoRA"]])
def test_tied_weights_stay_tied(tmp_path, name, method):
    first, *others = ARCHITECTURES[name].tied
    result = compress(dense(name), method)
    report = next(layer for layer in result.layers if layer.name == first)
    assert report.tied_to == others
    checkpoint.save(result.model, tmp_path / "model.safetensors")
    loaded = checkpoint.load(ARCHITECTURES[name].make(seed=1), tmp_path / "model.safetensors")
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
        loaded = checkpoint.load(architecture.make(seed=1).bfloat16(), path)
        assert torch.equal(loaded(**inputs).logits, outputs)
    assert outputs.dtype == torch.bfloat16 and bool(outputs.isfinite().all())


@every_architecture
def test_adapters_are_trained(name):
    result = compress(dense(name), LoRA(rank=2, alpha=4)).model.train()
    trained = {n: p for n, p in result.named_parameters() if p.requires_grad and ".term." in n}
    result(**ARCHITECTURES[name].inputs).logits.square().sum().backward()
    idle = [n for n, parameter in trained.items() if parameter.grad is None]
    assert trained and not idle
