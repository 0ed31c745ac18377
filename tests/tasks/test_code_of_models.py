"""A model folder that brings code of its own: nothing of it runs unless the task says so."""

import builtins
import json
from dataclasses import replace

import mirrors
import pytest
import text_mirror

from lowrank.point import evaluate
from lowrank.tasks import CausalLM, HubText, Packing

TASK = CausalLM(
    name=None,
    architecture="tiny",
    pretrained="me/own",
    test=HubText("me/words", "test"),
    train=HubText("me/words", "train"),
    packing=Packing(32),
    calibration_size=4,
    validation_size=4,
)
MODELING = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({mark!r}).touch()

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def with_code(tmp_path, monkeypatch):
    """A model folder that brings code of its own, and the mark that the code makes."""
    folder, mark = tmp_path / "own", tmp_path / "ran"
    text_mirror.save_llama(folder, text_mirror.byte_tokenizer())
    (folder / "modeling_own.py").write_text(MODELING.format(mark=str(mark)))
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    hub = tmp_path / "hub"
    texts = {
        name: {"text": text_mirror.rows(30, seed)} for seed, name in enumerate(["train", "test"])
    }
    text_mirror.save_rows(hub / "datasets" / "me" / "words", **texts)
    mirrors.use(hub, monkeypatch)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("the terminal was asked"))
    (hub / "models").mkdir()
    return replace(TASK, pretrained=str(folder)), mark


@pytest.mark.parametrize("act", ["network", "model", "check", "example"])
def test_code_that_comes_with_a_model_does_not_run(with_code, act):
    task, mark = with_code
    with pytest.raises(ValueError, match="trust_remote_code"):
        getattr(task, act)()
    assert not mark.exists()


def test_code_runs_where_the_task_says_so_and_that_is_on_record(with_code):
    task, mark = with_code
    trusting = replace(task, trust_remote_code=True)
    assert type(trusting.network()).__name__ == "OwnForCausalLM"
    assert mark.exists()
    assert evaluate(trusting.model(), trusting).metrics["perplexity"] > 1
    assert trusting.protocol()["trust_remote_code"] is True
