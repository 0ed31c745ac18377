"""GGUF files in llama.cpp itself.

LLAMA_CPP_PYTHON names a Python that has llama-cpp-python, which is compiled for minutes to an hour
where it is installed. Without it these are skipped.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import lowrank
from lowrank import Quantization
from lowrank.model.dense import dense_model

STORIES = Path(os.environ.get("LOWRANK_HUB", ""), "models/karpathy/stories260K")
pytestmark = [
    pytest.mark.environment,
    pytest.mark.skipif(not STORIES.is_dir(), reason="LOWRANK_HUB is not set"),
    pytest.mark.skipif("LLAMA_CPP_PYTHON" not in os.environ, reason="LLAMA_CPP_PYTHON is not set"),
]
PROGRAM = Path(__file__).with_name("llama_cpp_program.py")
TEXT = "Once upon a time, there was a little girl named Lily.\nShe had 12  red balls and Äpfel."
# llama.cpp keeps keys and values in float16, and with blocks rounds what they multiply to 8 bits:
# 2^-11 and 2^-8 of the largest of 32, in each of a few dozen products.
CASES = {
    "float32": (None, 2**-9),
    "Q4_0": (Quantization(4, 32), 2**-5),
    "Q5_0": (Quantization(4, 32, symmetric=False), 2**-5),
    "Q8_0": (Quantization(8, 32), 2**-5),
}
COUNT = 40


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    from transformers import AutoModelForCausalLM

    root, models = tmp_path_factory.mktemp("gguf"), {}
    for name, (method, _) in CASES.items():
        model = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32).eval()
        if method is not None:
            model = lowrank.compress(model, method).model
        options = {"dtype": "float32", "multiply_out": True}
        lowrank.export_model(model, "gguf", root / name, **options)
        models[name] = dense_model(model)
    asked = {"folders": [str(root / name) for name in CASES], "text": TEXT, "count": COUNT}
    asked["start"] = ids()[:8]
    (root / "asked.json").write_text(json.dumps(asked))
    command = [os.environ["LLAMA_CPP_PYTHON"], PROGRAM, root / "asked.json"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return {name: (model, np.load(root / name / "llama.npz")) for name, model in models.items()}


def ids():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(STORIES)(TEXT).input_ids


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_llama_cpp_splits_text_and_computes_alike(name, found):
    model, theirs = found[name]
    assert theirs["ids"].tolist() == ids()
    outputs = model(torch.tensor([ids()])).logits[0].numpy()
    assert np.abs(theirs["outputs"] - outputs).max() <= CASES[name][1] * np.abs(outputs).max()
    start = torch.tensor([ids()[:8]])
    own = model.generate(start, do_sample=False, max_new_tokens=COUNT)[0].tolist()
    assert theirs["greedy"].tolist()[: len(own)] == own
