"""What is read, against transformers with compressed-tensors, and as the model of a task."""

from functools import partial

import pytest
import text_mirror
import torch
from architectures import IDS, Architecture
from packed_models import LLAMA, SIZES, Codes, compressed_tensors, gptq, groups_of, write
from transformers import AutoModelForCausalLM

import lowrank
from lowrank import TruncatedSVD, Uncompressed
from lowrank.model.factorized import FactorizedLayer
from lowrank.tasks import CausalLM, HubText, Packing

SCHEMES = {
    "packed, 4 bits": (
        groups_of(4, 32, symmetric=True),
        partial(compressed_tensors, bits=4, symmetric=True),
        partial(Codes.of, bits=4, size=32, symmetric=True),
    ),
    "packed, 8 bits of rows": (
        groups_of(8, None, symmetric=True),
        partial(compressed_tensors, bits=8, symmetric=True),
        partial(Codes.of, bits=8, size=-1, symmetric=True),
    ),
}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.filterwarnings("ignore")  # Of a library that is only compared with.
def test_transformers_computes_the_same(name, tmp_path):
    pytest.importorskip("compressed_tensors")
    config, pack, codes = SCHEMES[name]
    write(tmp_path, LLAMA.make, config, pack, codes, torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    found = lowrank.read_compressed(str(tmp_path))
    with torch.no_grad():
        assert torch.equal(found.model(IDS).logits, theirs(IDS).logits)


@pytest.fixture
def task(tmp_path, monkeypatch):
    """The perplexity of a model that another tool has compressed."""
    hub = tmp_path / "hub"
    make = Architecture(
        "LlamaForCausalLM", "LlamaConfig", SIZES | {"vocab_size": 300}, 9, set(), ""
    )
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
    folder = hub / "models" / "me" / "gptq"
    folder.mkdir(parents=True)
    write(folder, make.make, config, partial(gptq, bits=4), partial(Codes.of, bits=4, size=32))
    text_mirror.byte_tokenizer().save_pretrained(folder)
    text_mirror.save_rows(
        hub / "datasets" / "me" / "words",
        train={"text": text_mirror.rows(40)},
        validation={"text": text_mirror.rows(20, seed=1)},
    )
    monkeypatch.setenv("LOWRANK_HUB", str(hub))
    return CausalLM(
        name="words",
        architecture="gptq",
        pretrained="me/gptq",
        test=HubText("me/words", "validation"),
        train=HubText("me/words", "train"),
        packing=Packing(16),
        calibration_size=4,
        validation_size=4,
    )


def test_a_point_measures_it_as_it_is_by_the_bytes_of_its_codes(task):
    record = lowrank.measure_point(task, Uncompressed())
    found = lowrank.read_compressed("me/gptq")
    assert record["dense"]["bytes"] == record["compressed"]["bytes"] == found.nbytes
    assert record["dense"]["bytes"] < found.file_bytes
    assert record["ratios"]["compression_ratio"] == 1
    assert record["dense"]["perplexity"] == record["compressed"]["perplexity"]


def test_what_is_left_of_it_can_be_compressed(task):
    small = lowrank.compress(task.model(), TruncatedSVD(rank=4), where=["lm_head"]).model
    layers = [n for n, m in small.named_modules() if isinstance(m, FactorizedLayer)]
    assert "lm_head" in layers and len(layers) == 8
