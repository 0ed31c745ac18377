"""GGUF files: those of llama.cpp, our own, and hostile ones."""

import struct
import tracemalloc

import gguf
import numpy as np
import pytest
import torch
from architectures import GROUPED, IDS, TOKENS, Architecture
from gguf_files import header, name_of, text, write
from hypothesis import given
from hypothesis import strategies as st

import lowrank
from lowrank import HalfPrecision, Quantization
from lowrank.factorizations import Half, Layout, Quantized, ScaledLevels
from lowrank.model.factorized import FactorizedLayer
from lowrank.reading.gguf import in_groups
from lowrank.reading.gguf_architectures import name_in_model
from lowrank.reading.gguf_blocks import BLOCK_TYPES, GgufBlocks
from lowrank.reading.gguf_header import read_header

SIZES = GROUPED | TOKENS | {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1}
LLAMA = Architecture("LlamaForCausalLM", "LlamaConfig", SIZES | {"head_dim": 16}, 9, set(), "")
TIED = Architecture(
    "Qwen2ForCausalLM", "Qwen2Config", SIZES | {"tie_word_embeddings": True}, 8, set(), ""
)
MIXED = {
    "embed_tokens": "Q8_0",
    "q_proj": "Q4_0",
    "k_proj": "Q4_1",
    "v_proj": "Q5_0",
    "o_proj": "Q5_1",
    "gate_proj": "Q8_0",
    "up_proj": "BF16",
    "down_proj": "F32",
}


def forms(model):
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FactorizedLayer)}
    return {name: layer.factorization for name, layer in layers.items()}


@given(st.sampled_from(BLOCK_TYPES), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32))
def test_any_blocks_are_the_numbers_that_the_gguf_package_reads(kind, rows, blocks, seed):
    draw = np.random.default_rng(seed)
    data = draw.integers(0, 256, (rows, blocks, kind.nbytes), dtype=np.uint8)
    halves = draw.normal(size=(rows, blocks, 2)).astype(np.float16)
    halves[draw.random((rows, blocks)) < 0.2, 0] = 0  # Blocks of one number.
    count = 1 + kind.has_minimum
    data[:, :, : 2 * count] = np.ascontiguousarray(halves[:, :, :count]).view(np.uint8)
    data = data.reshape(rows, -1)
    read = GgufBlocks.from_bytes(kind, torch.from_numpy(data))
    assert np.array_equal(read.to_bytes(), data)
    form = in_groups(read, torch.float32)
    theirs = gguf.dequantize(data, gguf.GGMLQuantizationType[kind.name])
    assert torch.equal(form.to_dense(), torch.from_numpy(theirs))
    assert isinstance(form, Quantized | ScaledLevels) and form.layout.group_size == 32
    assert kind.has_minimum or type(form) is Quantized


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A file of all types that are read."""
    path = tmp_path_factory.mktemp("gguf") / "mixed.gguf"
    torch.manual_seed(0)
    write(path, LLAMA.make(), MIXED)
    return path


def theirs(path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


@torch.no_grad()
def test_all_types_are_read_as_transformers_reads_them(mixed):
    found, other = lowrank.read_compressed(str(mixed)), theirs(mixed)
    held = forms(found.model)
    for name, value in other.state_dict().items():
        layer = name.rpartition(".")[0]
        own = held[layer].to_dense() if layer in held else found.model.get_parameter(name)
        assert torch.equal(own, value), name
    assert torch.equal(found.model(IDS).logits, other(IDS).logits)
    kinds = {name.rpartition(".")[2]: type(form) for name, form in held.items()}
    blocks = {"embed_tokens", "q_proj", "v_proj", "gate_proj"}
    assert kinds == dict.fromkeys(blocks, Quantized) | dict.fromkeys(
        ("k_proj", "o_proj"), ScaledLevels
    ) | dict.fromkeys(("up_proj", "lm_head"), Half)
    assert "1 of Q4_1" in found.scheme and "1 of BF16" in found.scheme


def test_bytes_are_those_of_the_file(mixed):
    found = lowrank.read_compressed(str(mixed))
    tensors = gguf.GGUFReader(mixed).tensors
    assert found.file_bytes == sum(tensor.n_bytes for tensor in tensors)
    assert all(layer.nbytes == layer.file_bytes for layer in found.layers)
    # Norms of ones, which are stored in 16 bits here.
    assert found.file_bytes - found.nbytes == 3 * 64 * 2


@torch.no_grad()
def test_a_tied_table_and_biases_are_read(tmp_path):
    path = tmp_path / "tied.gguf"
    model = TIED.make()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_()
    write(path, model, MIXED)
    found, other = lowrank.read_compressed(str(path)), theirs(path)
    assert found.model.lm_head.factorization is found.model.model.embed_tokens.factorization
    assert torch.equal(found.model(IDS).logits, other(IDS).logits)


def test_in_another_dtype_the_stored_numbers_stay(mixed):
    found = lowrank.read_compressed(str(mixed), dtype="float16")
    held = forms(found.model)
    assert "lm_head" not in held and found.model.lm_head.weight.dtype == torch.float16
    wide = forms(lowrank.read_compressed(str(mixed)).model)
    for name, form in held.items():
        assert torch.equal(form.to_dense(), wide[name].to_dense().half()), name
        assert torch.equal(form.float().to_dense(), wide[name].to_dense()), name


ROUND = {
    "4 bits": Quantization(4, 32),
    "5 bits": Quantization(5, 32),
    "8 bits": Quantization(8, 32),
    "half": HalfPrecision("float16"),
}


@pytest.mark.parametrize("name", ROUND)
@torch.no_grad()
def test_what_is_exported_comes_back_in_its_own_form(name, tmp_path):
    model = lowrank.compress(LLAMA.make(), ROUND[name]).model
    lowrank.export_model(model, "gguf", tmp_path / "a", tokenizer=None, dtype="float32")
    found = lowrank.read_compressed(str(tmp_path / "a" / "model.gguf"))
    before, after = forms(model), forms(found.model)
    assert before.keys() == after.keys()
    for layer, form in before.items():
        assert after[layer].config() == form.config(), layer
        for key, tensor in form.state_dict().items():
            assert torch.equal(after[layer].state_dict()[key], tensor), (layer, key)
    assert torch.equal(found.model(IDS).logits, model(IDS).logits)


def test_what_is_read_is_exported_as_the_same_bytes(mixed, tmp_path):
    found = lowrank.read_compressed(str(mixed))
    lowrank.save(found.model, tmp_path / "own.safetensors")
    again = lowrank.load(tmp_path / "own.safetensors")
    lowrank.export_model(again, "gguf", tmp_path / "a", tokenizer=None, dtype="float32")
    files = [mixed, tmp_path / "a" / "model.gguf"]
    one, two = ({t.name: t for t in gguf.GGUFReader(path).tensors} for path in files)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.tensor_type == two[name].tensor_type, name
        assert np.array_equal(tensor.data, two[name].data), name


def test_zero_points_that_say_the_same_are_kept():
    layout = Layout((2, 64), 4, 32)
    kind = next(kind for kind in BLOCK_TYPES if kind.name == "Q4_1")
    codes = torch.arange(128, dtype=torch.uint8).view(2, 64) % 16
    scale = torch.full((2, 2), 0.25).half()
    for zero, dtype in ((3.0, torch.uint8), (-2.5, torch.float16)):
        blocks = GgufBlocks(kind, codes, torch.stack([scale, -zero * scale]))
        form = in_groups(blocks, torch.float32)
        assert isinstance(form, Quantized) and form.zero.dtype == dtype
        assert torch.equal(form.to_dense(), (codes - zero) * 0.25)
        assert form.layout == layout


def test_other_types_are_refused_or_dense_as_asked(tmp_path, monkeypatch):
    path = tmp_path / "k.gguf"
    model = Architecture(
        "LlamaForCausalLM", "LlamaConfig", SIZES | {"head_dim": 16}, 9, set(), ""
    ).make()
    # The package writes no blocks of Q6_K; of any bytes with a scale it reads numbers.
    plain = gguf.quantize

    def quantize(values, kind):
        if kind.name != "Q6_K":
            return plain(values, kind)
        draw = np.random.default_rng(0)
        blocks = draw.integers(0, 256, (values.size // 256, 210), dtype=np.uint8)
        blocks[:, 208:] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
        return blocks.reshape(len(values), -1)

    monkeypatch.setattr(gguf, "quantize", quantize)
    write(path, model, MIXED | {"down_proj": "Q6_K"})
    with pytest.raises(ValueError, match=r"Q6_K \(\['blk.0.ffn_down.weight'\]\).*multiply_out"):
        lowrank.read_compressed(str(path))
    found = lowrank.read_compressed(str(path), multiply_out=True)
    assert "Dense 256→64; multiplied out of Q6_K" in found.describe()
    name = "model.layers.0.mlp.down_proj.weight"
    weight = found.model.get_parameter(name)
    assert torch.equal(weight, theirs(path).get_parameter(name))
    assert weight.count_nonzero() > 1000


def test_names_are_those_of_llama_cpp():
    model = TIED.make()
    assert all(name_in_model(name_of(name)) == name for name in model.state_dict())
    for name in ("rope_freqs.weight", "blk.0.ffn_up_exps.weight", "blk.x.attn_q.weight", "output"):
        assert name_in_model(name) is None


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"rope.scaling.type": "linear"}, "rope.scaling.type.*'linear'.*'none'"),
        ({"expert_count": 8}, "expert_count"),
        ({"new_thing": 1}, "new_thing.*not known here"),
        ({"attention.key_length": 8}, "blk.0.attn_q.weight|in the model"),
        ({"attention.key_length": 8, "attention.value_length": 16}, "attention.key_length"),
        ({"attention.head_count": 0}, "attention.head_count"),
        ({"attention.head_count": "x"}, "attention.head_count"),
        ({"rope.freq_base": float("nan")}, "rope.freq_base"),
        ({"block_count": 2}, "the file lacks"),
        ({"block_count": 10**9}, "1000000000 layers, and fewer tensors"),
        ({"feed_forward_length": 2**31}, "in the model, of which its .* bytes"),
        ({"embedding_length": 2**31}, "has 2147483648 columns"),
        ({"rope.scale_linear": 2.0}, "rope.scale_linear"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(more, error, tmp_path):
    path = tmp_path / "a.gguf"
    write(path, LLAMA.make(), MIXED, **more)
    with pytest.raises(ValueError, match=error):
        lowrank.read_compressed(str(path))


def test_names_and_options_that_are_none_are_refused(mixed, tmp_path):
    with pytest.raises(ValueError, match=r"there is no file|no model"):
        lowrank.read_compressed(str(tmp_path / "no.gguf"))
    with pytest.raises(ValueError, match="takes no `auto`"):
        lowrank.read_compressed(str(mixed), auto="AutoModel")
    with pytest.raises(ValueError, match="multiply_out=True is of GGUF files"):
        lowrank.read_compressed(str(tmp_path), multiply_out=True)


ONE = ("a", (32,), 0, 0)
BOOL = ("k", 7, b"\1")
LONG = struct.pack("<Q", 2**40)
FORGED = {
    "empty": (b"", "has 0 bytes"),
    "another file": (b"PK\3\4" + bytes(40), "does not begin with"),
    "another version": (header(version=1) + bytes(9), "version is 1"),
    "big-endian": (header(version=3 << 24) + bytes(9), "version"),
    "countless tensors": (header(counts=(2**63, 0)) + bytes(9), "truncated: 9223372036854775808"),
    "countless values": (header(counts=(0, 2**40)) + bytes(9), "truncated: 1099511627776 values"),
    "a long key": (header(counts=(0, 1)) + LONG + bytes(40), "at most 65536"),
    "a long text": (header([("k", 8, LONG)]) + bytes(40), "k at byte .* at most 65536"),
    "a long token": (header([("tokenizer.k", 8, LONG)]) + bytes(40), "truncated"),
    "a long list": (header([("k", 9, struct.pack("<I", 0) + LONG)]) + bytes(40), "values, at most"),
    "long tokens": (
        header([("tokenizer.k", 9, struct.pack("<I", 8) + LONG)]) + bytes(40),
        "truncated: 1099511627776 values",
    ),
    "long scores": (
        header([("tokenizer.k", 9, struct.pack("<I", 6) + LONG)]) + bytes(40),
        "truncated",
    ),
    "lists of lists": (
        header([("k", 9, struct.pack("<IQ", 9, 1) + bytes(40))]),
        "k is of type 9",
    ),
    "another type of value": (header([("k", 99, bytes(40))]), "k is of type 99"),
    "one key twice": (header([BOOL, BOOL]), "two values of 'k'"),
    "no text": (header([(b"\xff\xfe", 7, b"\1")]), "is no text"),
    "one tensor twice": (header([], [ONE, ONE]) + bytes(999), "'a' is there twice"),
    "many axes": (header([], [("a", (1,) * 5, 0, 0)]) + bytes(99), "has 5 axes"),
    "no axes": (header([], [("a", (), 0, 0)]) + bytes(99), "has 0 axes"),
    "another type": (header([], [("a", (32,), 77, 0)]) + bytes(999), "type 77, which GGUF"),
    "half a block": (header([], [("a", (31,), 8, 0)]) + bytes(999), "no blocks of 32 of Q8_0"),
    "a huge tensor": (header([], [("a", (2**60, 2**60), 0, 0)]) + bytes(999), "is truncated"),
    "too short": (header([], [ONE]) + bytes(60), "is truncated"),
    "over each other": (header([], [ONE, ("b", (32,), 0, 64)]) + bytes(999), "overlap"),
    "not aligned": (header([], [("a", (8,), 0, 4)]) + bytes(999), "cannot lie"),
    "no alignment": (
        header([("general.alignment", 4, bytes(4))], [ONE]) + bytes(999),
        "must be a power of two",
    ),
    "alignment of a text": (
        header([("general.alignment", 8, text("x"))], [ONE]) + bytes(999),
        "must be a power of two",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_headers_are_refused_without_taking_memory(name, tmp_path):
    data, error = FORGED[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=error):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def whole(mixed):
    return mixed.read_bytes()


@given(st.data())
def test_truncated_and_damaged_headers_are_one_error_or_another_model(
    whole, tmp_path_factory, data
):
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    end = data.draw(st.integers(0, 2500), "length")
    damaged = bytearray(whole)
    if data.draw(st.booleans()):
        del damaged[end:]
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="GGUF"):
            read_header(path)
    damaged[end : end + 1] = bytes([data.draw(st.integers(0, 255))])
    path.write_bytes(damaged)
    try:
        read_header(path)
    except ValueError as error:
        assert str(path) in str(error)


def test_a_scale_that_is_no_number_is_refused(whole, tmp_path, mixed):
    place = read_header(mixed).tensors["blk.0.attn_q.weight"].start
    damaged = bytearray(whole)
    damaged[place : place + 2] = np.float16("nan").tobytes()
    (tmp_path / "a.gguf").write_bytes(damaged)
    with pytest.raises(ValueError, match="scale"):
        lowrank.read_compressed(str(tmp_path / "a.gguf"))
