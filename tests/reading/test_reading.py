"""Models that other tools have compressed: their codes, their bytes, and what is refused."""

import json
from functools import partial

import pytest
import torch
from architectures import IDS, SIZES
from packed_models import LLAMA, QWEN2, Codes, awq, compressed_tensors, gptq, groups_of, write
from safetensors.torch import load_file, save_file

import lowrank
from lowrank.factorizations import Quantized, ReorderedColumns
from lowrank.model.factorized import FactorizedLayer
from lowrank.reading import scheme_of, stored_in
from lowrank.reading.stored import LayerTensors


def gptq_config(bits, size, **others):
    return {"quant_method": "gptq", "bits": bits, "group_size": size, "sym": False} | others


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
CASES = {
    **{
        f"gptq, {bits} bits": (
            gptq_config(bits, 32),
            partial(gptq, bits=bits),
            partial(Codes.of, bits=bits, size=32),
        )
        for bits in (2, 3, 4, 8)
    },
    "gptq, of whole rows": (
        gptq_config(4, -1),
        partial(gptq, bits=4),
        partial(Codes.of, bits=4, size=-1),
    ),
    "gptq, a shorter last group": (
        gptq_config(4, 48),
        partial(gptq, bits=4),
        partial(Codes.of, bits=4, size=48),
    ),
    "gptq, act-order": (
        gptq_config(4, 32, desc_act=True),
        partial(gptq, bits=4),
        partial(Codes.of, bits=4, size=32, order=True),
    ),
    "gptq, second version": (
        gptq_config(4, 32, checkpoint_format="gptq_v2"),
        partial(gptq, bits=4, less_one=0),
        partial(Codes.of, bits=4, size=32),
    ),
    "gptq, symmetric": (
        gptq_config(4, 32),
        partial(gptq, bits=4),
        partial(Codes.of, bits=4, size=32, symmetric=True),
    ),
    "awq": (AWQ, awq, partial(Codes.of, bits=4, size=32)),
    "packed, 4 bits": (
        groups_of(4, 32),
        partial(compressed_tensors, bits=4),
        partial(Codes.of, bits=4, size=32),
    ),
    "packed, 3 bits": (
        groups_of(3, 32),
        partial(compressed_tensors, bits=3),
        partial(Codes.of, bits=3, size=32),
    ),
    "packed, 8 bits, symmetric": (
        groups_of(8, None, symmetric=True),
        partial(compressed_tensors, bits=8, symmetric=True),
        partial(Codes.of, bits=8, size=-1, symmetric=True),
    ),
    "packed, act-order": (
        groups_of(4, 32, actorder="group"),
        partial(compressed_tensors, bits=4, order=True),
        partial(Codes.of, bits=4, size=32, order=True),
    ),
    "integers": (
        groups_of(8, None, form="int-quantized"),
        partial(compressed_tensors, bits=8, packs=False),
        partial(Codes.of, bits=8, size=-1),
    ),
}


def forms(model):
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FactorizedLayer)}
    return {name: layer.factorization for name, layer in layers.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_weights_are_those_of_the_codes_and_the_outputs_those_of_the_dense_model(
    name, tmp_path
):
    if "packed" in name or name == "integers":
        pytest.importorskip("compressed_tensors")
    config, pack, codes = CASES[name]
    dense = write(tmp_path / "model", LLAMA.make, config, pack, codes)
    found = lowrank.read_compressed(str(tmp_path / "model"), dtype="float16")
    assert len(found.layers) == 7 and found.scheme in found.describe()
    for layer, form in forms(found.model).items():
        assert torch.equal(form.to_dense(), dense.get_submodule(layer).weight), layer
    kinds = {type(form) for form in forms(found.model).values()}
    assert kinds == {ReorderedColumns if "act-order" in name else Quantized}
    assert torch.equal(found.model(IDS).logits, dense(IDS).logits)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert found.file_bytes == sum(tensor.nbytes for tensor in stored.values())
    # Codes, scales and zero points: what both have. The file also has the group of each column.
    assert sum(layer.nbytes for layer in found.layers) <= sum(
        layer.file_bytes for layer in found.layers
    )


def test_bytes_are_those_of_the_file_but_for_what_need_not_be_stored(tmp_path):
    config, pack, codes = CASES["awq"]
    write(tmp_path / "model", LLAMA.make, config, pack, codes)
    found = lowrank.read_compressed(str(tmp_path / "model"), dtype="float16")
    assert all(layer.nbytes == layer.file_bytes for layer in found.layers)
    assert found.nbytes == found.file_bytes


def test_biases_and_tied_tables_are_read(tmp_path):
    config, pack, codes = CASES["gptq, 4 bits"]
    dense = write(tmp_path / "model", QWEN2.make, config, pack, codes)
    found = lowrank.read_compressed(str(tmp_path / "model"), dtype="float16")
    assert torch.equal(found.model(IDS).logits, dense(IDS).logits)
    assert found.model.lm_head.weight is found.model.model.embed_tokens.weight
    assert torch.equal(
        found.model.model.layers[0].self_attn.q_proj.bias,
        dense.model.layers[0].self_attn.q_proj.bias,
    )


def test_what_is_read_is_saved_and_loaded_as_any_compressed_model(tmp_path):
    config, pack, codes = CASES["gptq, act-order"]
    write(tmp_path / "model", LLAMA.make, config, pack, codes)
    found = lowrank.read_compressed(str(tmp_path / "model"))
    lowrank.save(found.model, tmp_path / "own.safetensors")
    again = lowrank.load(tmp_path / "own.safetensors")
    assert torch.equal(again(IDS).logits, found.model(IDS).logits)


@pytest.fixture
def folder(tmp_path):
    config, pack, codes = CASES["gptq, 4 bits"]
    write(tmp_path / "model", LLAMA.make, config, pack, codes)
    return tmp_path / "model"


def changed(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    for name, value in fields.items():
        place = config["quantization_config"] if name in config["quantization_config"] else config
        place[name] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"quant_method": "hqq"}, r"quant_method is 'hqq'.*'awq', 'bitsandbytes', 'comp"),
        ({"bits": 5}, r"one of \(2, 3, 4, 8\)"),
        ({"bits": 2}, "must be"),
        ({"group_size": 0}, "group_size"),
        ({"group_size": 16}, "scales"),
        ({"quantization_config": None}, "has no quantization_config"),
        ({"quantization_config": 3}, "no configuration of"),
        ({"num_hidden_layers": 10**9}, "layers, its files fewer"),
        ({"num_hidden_layers": 2}, "the file lacks"),
        ({"hidden_size": 2**20, "head_dim": 16}, "in the model, of which its"),
        ({"tie_word_embeddings": True}, "one tensor in the model, and have other numbers"),
        # What makes the library that reads configs fail with errors of other kinds.
        ({"tie_word_embeddings": "float32"}, "expected bool"),
        ({"dtype": [[1]]}, "no configuration of"),
        ({"model_type": [1, 2]}, "unhashable"),
        ({"rope_parameters": {"rope_theta": [1], "rope_type": "default"}}, "unsupported operand"),
    ],
)
def test_configs_that_do_not_fit_are_refused(fields, text, folder):
    changed(folder, **fields)
    with pytest.raises(ValueError, match=text):
        lowrank.read_compressed(str(folder))


PREFIX = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop(f"{PREFIX}.qzeros"), "lacks 'qzeros'"),
        (lambda t: t.pop("model.norm.weight"), r"lacks \['model.norm.weight'\]"),
        (lambda t: t.update({"extra": torch.ones(2)}), r"the model has not, \['extra'\]"),
        (
            lambda t: t.update({f"{PREFIX}.extra": torch.ones(2)}),
            r"has \['extra'\], which no layer",
        ),
        (lambda t: t.update({f"{PREFIX}.bias": torch.ones(128).half()}), "the layer has none"),
        (lambda t: t[f"{PREFIX}.qzeros"].fill_(-1), "zero points of 16"),
        (lambda t: t[f"{PREFIX}.g_idx"].fill_(0), "groups of columns do not all have 32"),
        (lambda t: t[f"{PREFIX}.scales"].fill_(float("nan")), "scale"),
        (lambda t: t.update({f"{PREFIX}.scales": torch.ones(3, 3).half()}), "must be"),
        (lambda t: t[f"{PREFIX}.g_idx"].fill_(2**30), "groups of columns do not all have 32"),
        (lambda t: t["model.norm.weight"].fill_(torch.nan), "64 of 64 numbers are NaN"),
        (
            lambda t: t.update({f"{PREFIX}.scales": torch.full((2, 128), 3e38)}),
            f"the weight of '{PREFIX}' in float32: .* are NaN or infinite",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(change, text, folder):
    with pytest.raises(ValueError, match=text):
        read_changed(folder, change)


def read_changed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return lowrank.read_compressed(str(folder))


def test_groups_that_are_no_neighbours_need_their_index(tmp_path):
    config, pack, codes = CASES["gptq, act-order"]
    write(tmp_path / "model", LLAMA.make, config, pack, codes)
    with pytest.raises(ValueError, match=f"'{PREFIX}' lacks 'g_idx'"):
        read_changed(tmp_path / "model", lambda t: t.pop(f"{PREFIX}.g_idx"))


def test_a_bias_of_the_model_must_be_in_the_file(tmp_path):
    config, pack, codes = CASES["gptq, 4 bits"]
    write(tmp_path / "model", QWEN2.make, config, pack, codes)
    with pytest.raises(ValueError, match=r"lacks \['model.layers.0.self_attn.q_proj.bias'\]"):
        read_changed(tmp_path / "model", lambda t: t.pop("model.layers.0.self_attn.q_proj.bias"))


def test_a_tied_table_is_not_dropped_for_the_codes_of_the_head(tmp_path):
    config, pack, codes = CASES["gptq, 4 bits"]
    write(tmp_path / "model", QWEN2.make, config, pack, codes)
    head = pack(codes(torch.zeros(SIZES["vocab_size"], 64)))
    with pytest.raises(ValueError, match="one tensor in the model, and have other numbers"):
        read_changed(
            tmp_path / "model",
            lambda t: t.update({f"lm_head.{end}": part for end, part in head.items()}),
        )


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("packed, 4 bits", lambda t: t.pop(f"{PREFIX}.weight_zero_point"), "fit none of what"),
        ("packed, act-order", lambda t: t.pop(f"{PREFIX}.weight_g_idx"), "fit none of what"),
        (
            "packed, 4 bits",
            lambda t: t.update({f"{PREFIX}.weight_scale": torch.tensor(0.5)}),
            r"weight_scale \(\).* fit none of what the config says: .*each 32 columns, zero",
        ),
        (
            "packed, 4 bits",
            lambda t: t.update({f"{PREFIX}.weight_packed": torch.zeros(64, dtype=torch.int32)}),
            r"weight_packed \(64,\).* fit none",
        ),
        (
            "packed, 4 bits",
            lambda t: t[f"{PREFIX}.weight_shape"].mul_(-1),
            r"weight_shape' is \[-128, -64\], and the model's \(128, 64\)",
        ),
        (
            "packed, 8 bits, symmetric",
            lambda t: t.update({f"{PREFIX}.weight_zero_point": torch.ones(128, 1).to(torch.int8)}),
            "others than those of symmetric levels",
        ),
        (
            "integers",
            lambda t: t.update({f"{PREFIX}.weight_zero_point": torch.full((128, 1), 2**16)}),
            r"zero must lie in 0\.\.255",
        ),
    ],
)
def test_layers_that_are_not_what_the_config_says_are_refused(name, change, text, tmp_path):
    pytest.importorskip("compressed_tensors")
    config, pack, codes = CASES[name]
    write(tmp_path / "model", LLAMA.make, config, pack, codes)
    with pytest.raises(ValueError, match=text):
        read_changed(tmp_path / "model", change)


def test_layers_are_of_the_kind_that_their_tensors_fit(tmp_path):
    pytest.importorskip("compressed_tensors")
    config, pack, codes = CASES["packed, 4 bits"]
    write(tmp_path / "model", LLAMA.make, config, pack, codes)
    groups = config["config_groups"]
    other = groups["group_0"]["weights"] | {"num_bits": 3, "group_size": 16}
    both = groups | {"group_1": groups["group_0"] | {"weights": other}}
    changed(tmp_path / "model", config_groups=both)
    assert len(lowrank.read_compressed(str(tmp_path / "model")).layers) == 7
    same = groups["group_0"]["weights"] | {"strategy": "channel", "symmetric": True}
    changed(tmp_path / "model", config_groups=both | {"group_1": {"weights": same}})
    found = lowrank.read_compressed(str(tmp_path / "model"))
    assert "32 columns" in found.scheme and "each row" in found.scheme


def test_kinds_that_tensors_do_not_tell_apart_are_refused(tmp_path):
    config = groups_of(4, None)
    three = groups_of(3, None)["config_groups"]["group_0"]
    scheme = scheme_of(config | {"config_groups": config["config_groups"] | {"group_1": three}})
    tensors = {"weight_packed": torch.zeros(2, 1).int(), "weight_scale": torch.ones(2, 1)}
    tensors |= {"weight_shape": torch.tensor([2, 8]), "weight_zero_point": torch.zeros(1, 1).int()}
    save_file(tensors, tmp_path / "a.safetensors")
    with stored_in(tmp_path) as stored, pytest.raises(ValueError, match="fit more than one of"):
        scheme.read(LayerTensors("a", stored), (2, 8), torch.float32)


def test_damaged_and_other_files_are_refused(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        lowrank.read_compressed(str(folder))
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="is a pickle"):
        lowrank.read_compressed(str(folder))
    path.unlink()
    with pytest.raises(ValueError, match=r"no \*.safetensors file"):
        lowrank.read_compressed(folder)
    for name, text in (("", "is empty"), (None, "must be a path"), (5, "must be a path")):
        with pytest.raises(ValueError, match=text):
            lowrank.read_compressed(name)
    with pytest.raises(ValueError, match="auto='LlamaConfig'"):
        lowrank.read_compressed(str(folder), auto="LlamaConfig")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"format": "float-quantized"}, "format"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({"sparsity_config": {"format": "sparse-bitmask"}}, "sparsity_config"),
    ],
)
def test_schemes_of_compressed_tensors_that_are_not_read_are_refused(fields, text):
    with pytest.raises(ValueError, match=text):
        scheme_of(groups_of(4, 32) | fields)
    rounds = groups_of(8)
    rounds["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8}
    with pytest.raises(ValueError, match="activations are not quantized here"):
        scheme_of(rounds)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (gptq_config(4, 32, desc_act="yes"), "desc_act is 'yes': it must be true or false"),
        (gptq_config(4, 32, checkpoint_format="marlin"), "checkpoint_format is 'marlin'"),
        (groups_of(4, 32, symmetric="no"), "symmetric is 'no': it must be true or false"),
        (groups_of(9, 32), "num_bits is 9"),
        (groups_of(4, 32, strategy="block"), "strategy is 'block'"),
    ],
)
def test_fields_of_no_known_value_are_refused(config, text):
    with pytest.raises(ValueError, match=text):
        scheme_of(config)
