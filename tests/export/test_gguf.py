"""GGUF: what transformers reads of the files, in one process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from architectures import GROUPED, IDS, TOKENS, Architecture
from forms import FORMS
from gguf_program import FILE, TEXT
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import lowrank
from lowrank import Quantization, TruncatedSVD
from lowrank.export.formats.gguf_tokenizer import SPLITS
from lowrank.model.dense import dense_model

PROGRAM = Path(__file__).with_name("gguf_program.py")
STORIES = Path(os.environ.get("LOWRANK_HUB", ""), "models/karpathy/stories260K")
SIZES = GROUPED | TOKENS | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
LLAMA = Architecture("LlamaForCausalLM", "LlamaConfig", SIZES | {"head_dim": 32}, 9, set(), "")
QWEN2 = Architecture("Qwen2ForCausalLM", "Qwen2Config", SIZES, 9, set(), "")
TIED = Architecture(
    "Qwen2ForCausalLM", "Qwen2Config", SIZES | {"tie_word_embeddings": True}, 8, set(), ""
)


@dataclass
class Case:
    method: Any
    make: Any = LLAMA.make
    options: dict[str, Any] = field(default_factory=lambda: {"dtype": "float32"})
    dtype: torch.dtype = torch.float32


def stories():
    return AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32).eval()


def byte_level(split):
    """A byte-level BPE of three merges, with a token for the end and one that is just added."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("o", "n"), ("c", "e"), ("on", "ce")]
    vocabulary = [*letters, "on", "ce", "once"]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    parts = [] if split is None else [pre_tokenizers.Split(Regex(split), "isolated")]
    one = pre_tokenizers.Sequence([*parts, by_bytes]) if parts else by_bytes
    made.pre_tokenizer, made.decoder = one, decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")
    fast.add_tokens(["<think>"])
    return fast


def with_text(split):
    options = {"dtype": "float32", "tokenizer": byte_level(split)}
    make = Architecture(
        *("Qwen2ForCausalLM", "Qwen2Config", SIZES | {"vocab_size": 264}, 9, set(), "")
    ).make
    return Case(Quantization(4, 32), make, options)


CASES = {f"Llama, {name}": Case(method) for name, method in FORMS.items()} | {
    "Llama, not compressed, float16": Case(None, options={}),
    "Llama, low rank, float16": Case(TruncatedSVD(rank=4), options={}),
    "Llama, bfloat16": Case(
        Quantization(4, 32), options={"dtype": "bfloat16"}, dtype=torch.bfloat16
    ),
    "Qwen2, 4 bits": Case(Quantization(4, 32), QWEN2.make),
    "Qwen2, 8 bits, tied": Case(Quantization(8, 64), TIED.make),
    "Qwen2, low rank, tied": Case(TruncatedSVD(rank=4), TIED.make),
    "Qwen2, its split of text": with_text(SPLITS["qwen2"]),
    "Qwen2, split as Llama 3 does": with_text(SPLITS["llama-bpe"]),
    "Qwen2, split as GPT-2 does": with_text(None),
}
if STORIES.is_dir():
    stored = {"dtype": "float32", "tokenizer": ""}
    CASES |= {
        "stories260K, 4 bits": Case(Quantization(4, 32), stories, stored),
        "stories260K, 8 bits": Case(Quantization(8, 32), stories, stored),
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Of each case the model, the plan, and what transformers found."""
    root, made = tmp_path_factory.mktemp("gguf"), {}
    for name, case in CASES.items():
        model = case.make()
        for parameter in model.parameters():  # `to(dtype)` would also round the rotary angles.
            parameter.data = parameter.data.to(case.dtype)
        if case.method is not None:
            model = lowrank.compress(model, case.method).model
        options = {"tokenizer": None} | case.options
        if options["tokenizer"]:
            options["tokenizer"].save_pretrained(root / f"tokenizer of {name}")
            options["tokenizer"] = str(root / f"tokenizer of {name}")
        folder = root / str(len(made))
        made[name] = (
            model,
            lowrank.export_model(model, "gguf", folder, multiply_out=True, **options),
        )
        made[name] += (folder,)
    asked = [
        (str(folder), "tokenizer" in CASES[name].options, str(CASES[name].dtype).split(".")[1])
        for name, (*_, folder) in made.items()
    ]
    (root / "cases.json").write_text(json.dumps(asked))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROGRAM.parent)}
    ran = subprocess.run(
        [sys.executable, PROGRAM, root / "cases.json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return {name: (*m, load_file(m[2] / "found.safetensors")) for name, m in made.items()}


@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_the_same_weights_and_computes_the_same(name, exported):
    model, plan, folder, found = exported[name]
    dense = dense_model(model)
    if "dtype" not in CASES[name].options:
        for matrix in (p for p in dense.parameters() if p.ndim > 1):
            matrix.data = matrix.data.half().float()
    for key, value in dense.state_dict().items():
        assert torch.equal(found[key], value), key
    assert torch.equal(found["logits"], dense(IDS).logits)
    greedy = dense.generate(IDS[:1], do_sample=False, max_new_tokens=8, pad_token_id=0)
    assert torch.equal(found["greedy"], greedy)
    tensors = gguf.GGUFReader(folder / FILE).tensors
    assert sum(tensor.n_bytes for tensor in tensors) == plan.nbytes


def _stored(plan):
    return {layer.stored for layer in plan.layers}


def test_codes_keep_the_smallest_blocks_that_hold_them(exported):
    kinds = {name: _stored(plan) for name, (_, plan, *_) in exported.items()}
    expected = {
        "dense": {"F32"},
        "half precision": {"F16"},
        "low rank": {"F32"},
        "quantized, 8 bits per row": {"Q8_0"},
        "quantized, 4 bits per row": {"Q4_0"},
        "quantized, 4 bits, groups of 32": {"Q4_0"},
        "quantized, 4 bits, groups of 32, zero points": {"Q5_0"},
        "quantized, 3 bits, groups of 32": {"Q4_0"},
        "codes with minima, groups of 32": {"Q4_1"},
    }
    assert {name: kinds[f"Llama, {name}"] for name in expected} == expected
    multiplied_out = {name: exported[f"Llama, {name}"][1].multiplied_out for name in FORMS}
    assert not any(multiplied_out[name] for name in expected if name != "low rank")
    assert all(multiplied_out[name] for name in FORMS.keys() - expected.keys())


def test_plans_say_what_is_rounded_and_why_layers_are_multiplied_out(exported):
    text = exported["Llama, low rank, float16"][1].describe()
    assert "of float32 are rounded to float16" in text and "it has no such form" in text
    assert "no tokenizer" in text
    assert "rounded" not in exported["Llama, low rank"][1].describe()


@pytest.mark.skipif(not STORIES.is_dir(), reason="LOWRANK_HUB is not set")
def test_the_tokenizer_makes_the_same_ids(exported):
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(STORIES)(TEXT).input_ids
    for name in ("stories260K, 4 bits", "stories260K, 8 bits"):
        assert exported[name][3]["text"].tolist() == own


@pytest.mark.parametrize("name", [name for name in CASES if "split" in name])
def test_the_byte_level_tokenizer_makes_the_same_ids(name, exported):
    own = CASES[name].options["tokenizer"](TEXT).input_ids
    assert exported[name][3]["text"].tolist() == own
    assert {256 + 2, 259, 260} <= {*own}  # "once", the end and the added one.


@pytest.mark.skipif(not STORIES.is_dir(), reason="LOWRANK_HUB is not set")
def test_rows_that_blocks_do_not_divide_are_named(exported):
    plan = exported["stories260K, 4 bits"][1]
    assert {one.name.rpartition(".")[2] for one in plan.multiplied_out} == {"down_proj"}
    assert "do not divide rows of 172" in plan.describe()


def tokenizers():
    """Name → the maker of a tokenizer."""

    def padded(split):
        one = byte_level(split)
        # transformers gives one to all tokenizers that it reads from GGUF files of this kind.
        one.add_special_tokens({"pad_token": "<|endoftext|>"})
        return one

    made = {f"split as {name}": (lambda one=one: padded(one)) for name, one in SPLITS.items()}
    if STORIES.is_dir():
        made["stories260K"] = lambda: AutoTokenizer.from_pretrained(STORIES)
    return made


@pytest.mark.parametrize("name", tokenizers())
def test_the_tokenizer_of_a_file_goes_into_other_exports(name, tmp_path):
    """Read in and written again, it makes the same ids, and text of what is generated."""
    own = tokenizers()[name]()
    own.save_pretrained(tmp_path / "own")
    sizes = SIZES | {"vocab_size": len(own)}
    model = Architecture("LlamaForCausalLM", "LlamaConfig", sizes, 9, set(), "").make()
    first, file = tmp_path / "first", str(tmp_path / "first" / FILE)
    export = {"multiply_out": True, "dtype": "float32"}
    lowrank.export_model(model, "gguf", first, tokenizer=str(tmp_path / "own"), **export)
    read = lowrank.read_compressed(file, multiply_out=True).model
    lowrank.export_model(read, "gguf", tmp_path / "gguf", tokenizer=file, **export)
    lowrank.export_model(read, "hf", tmp_path / "hf", tokenizer=file)
    wanted = own(TEXT).input_ids
    for folder, options in (("gguf", {"gguf_file": FILE}), ("hf", {})):
        found = AutoTokenizer.from_pretrained(tmp_path / folder, **options)
        assert found(TEXT).input_ids == wanted
        assert found.decode(wanted) == own.decode(wanted)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / folder, **options).eval()
        inputs = found("Once upon a time", return_tensors="pt")
        new = theirs.generate(inputs.input_ids, do_sample=False, max_new_tokens=8, pad_token_id=0)
        same = model.generate(inputs.input_ids, do_sample=False, max_new_tokens=8, pad_token_id=0)
        assert found.decode(new[0]) == own.decode(same[0])


@pytest.mark.parametrize("format", ["gguf", "hf"])
def test_files_without_a_whole_tokenizer_are_refused(format, tmp_path):
    model = LLAMA.make()
    lowrank.export_model(model, "gguf", tmp_path / "none", tokenizer=None)
    data = (tmp_path / "none" / FILE).read_bytes()
    (tmp_path / "short.gguf").write_bytes(data[:500])
    (tmp_path / "other.gguf").write_bytes(b"PK" + data[2:])
    for name, says in (
        (f"none/{FILE}", "has no tokenizer that transformers reads: .*'none'"),
        ("short.gguf", "short.gguf"),
        ("other.gguf", "other.gguf"),
        ("missing.gguf", "missing.gguf"),
    ):
        with pytest.raises(ValueError, match=f"(?s){says}.*[Gg]ive tokenizer="):
            lowrank.export_model(model, format, tmp_path / "out", tokenizer=str(tmp_path / name))
    assert not (tmp_path / "out").exists()
