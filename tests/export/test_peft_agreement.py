"""Folders of PEFT: what PEFT's own code computes with them, in a process of its own.

All cases run in one such process, whose imports take seconds.
"""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft_networks
import pytest
import torch
from architectures import ARCHITECTURES
from made_networks import trained
from safetensors.torch import load_file, save_model
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import (
    GPTQ,
    DoRA,
    LoRA,
    LoRAXS,
    MagnitudePruning,
    Quantization,
    QuantizedPlusLowRank,
    SharedLoRA,
    VeRA,
)
from lowrank.export.peft import export_peft, load_peft
from lowrank.recovery import merge_adapters

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed"
)
PROGRAM = Path(__file__).with_name("peft_program.py")
MINILM = Path(os.environ.get("LOWRANK_HUB", ""), "models/sentence-transformers/all-MiniLM-L6-v2")
OWN = ("Convolutions", "OtherAxes", "Endings", "Attention")
# PEFT cannot merge adapters of convolutions with groups.
GROUPED = ("convolutions", "convolutions of other axes")
ATTENTION, MLP = "*.self_attn.*", "*.mlp.*"


@dataclass
class Case:
    """A base, and the adapter on it: a method of this library, or a config of PEFT."""

    model: str
    method: Any = None
    where: Any = None
    config: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)


FROM_HERE = {
    "BERT, LoRA, all layers": Case("BERT", LoRA(3, 6)),
    "Llama, ranks and alphas by layer": Case(
        "Llama", {ATTENTION: LoRA(2, 3), MLP: LoRA(5, 4), "lm_head": LoRA(1, 1)}
    ),
    "Llama, rsLoRA": Case("Llama", LoRA(3, 6), ATTENTION, options={"rslora": True}),
    "Llama, PiSSA": Case("Llama", LoRA(2, 3, init="pissa"), ATTENTION),
    "BERT, LoftQ": Case("BERT", LoRA(2, 4, init="residual", base=Quantization(3)), "bert.encoder*"),
    "Llama, quantized and low rank": Case("Llama", QuantizedPlusLowRank(2, GPTQ(2)), MLP),
    "BERT, over a pruned base": Case("BERT", LoRA(2, 4, base=MagnitudePruning(0.5)), "*.dense"),
    "GPT-2, transposed weights": Case("GPT-2", LoRA(2, 4), "*.attn.*"),
    "BERT, tied table and head": Case("BERT, masked", LoRA(2, 4)),
    "BERT, DoRA": Case("BERT", DoRA(LoRA(2, 4)), "bert.encoder*"),
    "GPT-2, DoRA over a quantized base": Case(
        "GPT-2", DoRA(LoRA(2, 4, base=Quantization(3))), "*.attn.*"
    ),
    "convolutions, DoRA": Case("Convolutions", DoRA(LoRA(2, 4)), ["first", "last", "head"]),
    "Llama, VeRA": Case("Llama", VeRA(5), [ATTENTION, MLP]),
    "GPT-2, VeRA over a quantized base": Case("GPT-2", VeRA(5, base=Quantization(3)), "*.attn.*"),
    "Llama, LoRA-XS": Case("Llama", LoRAXS(3, 6), MLP),
    "Llama, one factor for base and adapter": Case(
        "Llama", SharedLoRA(3, 6, compress_base=True), MLP
    ),
    "names that end as others do": Case("Endings", LoRA(1, 2), ["a.b", "c"]),
    "convolutions": Case("Convolutions", LoRA(2, 4)),
    "convolutions of other axes": Case("OtherAxes", LoRA(2, 4)),
    "convolutions of other axes, DoRA": Case("OtherAxes", DoRA(LoRA(2, 4)), ["long", "deep"]),
    "MiniLM": Case("MiniLM", LoRA(4, 8), "encoder.*"),
}
OF_PEFT = {
    "LoRA": {"type": "LoraConfig", "r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"]},
    "regular expressions and patterns": {
        "type": "LoraConfig",
        "target_modules": r".*\.self_attn\.(q|v)_proj",
        "rank_pattern": {"layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {"v_proj": 3},
        "use_rslora": True,
    },
    "DoRA": {"type": "LoraConfig", "r": 2, "use_dora": True, "target_modules": ["down_proj"]},
    "layers by number, and some left out": {
        "type": "LoraConfig",
        "target_modules": ["q_proj", "up_proj", "down_proj"],
        "layers_to_transform": [1],
        "exclude_modules": ["up_proj"],
    },
    "no adapters in what is saved whole": {
        "type": "LoraConfig",
        "target_modules": ["up_proj", "q_proj"],
        "modules_to_save": ["layers.0.mlp"],
    },
    "VeRA": {"type": "VeraConfig", "r": 4, "target_modules": ["q_proj", "up_proj", "down_proj"]},
    "modules saved whole and biases": {
        "type": "LoraConfig",
        "target_modules": ["up_proj", "embed_tokens"],
        "modules_to_save": ["lm_head"],
        "bias": "lora_only",
        "init_lora_weights": "gaussian",
        "task_type": "CAUSAL_LM",
    },
}
ADALORA = {"type": "AdaLoraConfig", "init_r": 4, "total_step": 10}
EMPTY, SOME = [False] * 4, [True, False, True, True]
# Those of which what is written again is another folder.
READ = {
    "AdaLoRA": Case(
        "Llama",
        config=ADALORA
        | {
            "target_modules": ["q_proj", "up_proj"],
            "masks": [SOME, EMPTY, [True] * 4, SOME],
            "lora_alpha": 100,
            "alpha_pattern": {"q_proj": 3},
            "use_rslora": True,
        },
    ),
    "AdaLoRA, no alpha, all biases": Case(
        "GPT-2",
        config=ADALORA
        | {"target_modules": ["c_attn"], "masks": [SOME, SOME], "lora_alpha": -1, "bias": "all"},
    ),
    "AdaLoRA of convolutions": Case(
        "Convolutions",
        config=ADALORA | {"target_modules": ["first", "last", "head"], "lora_alpha": 40},
    ),
    "fused projections, biases": Case(
        "GPT-2",
        config={
            "type": "LoraConfig",
            "target_modules": ["c_attn"],
            "fan_in_fan_out": True,
            "bias": "lora_only",
        },
    ),
    "all biases": Case(
        "BERT, masked",
        config={"type": "LoraConfig", "r": 4, "target_modules": ["query"], "bias": "all"},
    ),
    "all biases, modules saved whole": Case(
        "Convolutions",
        config={
            "type": "LoraConfig",
            "r": 2,
            "target_modules": ["last"],
            "modules_to_save": ["head", "norm"],
            "bias": "all",
        },
    ),
    "VeRA, all biases": Case(
        "GPT-2",
        config={"type": "VeraConfig", "r": 4, "target_modules": ["c_attn"], "bias": "all"},
    ),
    **{
        f"one table, saved whole: {', '.join(names)}": Case(
            "GPT-2",
            config={
                "type": "LoraConfig",
                "target_modules": ["c_attn", *more],
                "modules_to_save": names,
            },
        )
        for names, more in ((["wte"], []), (["wte"], ["lm_head"]), (["wte", "lm_head"], []))
    },
    "attention": Case(
        "Attention",
        config={
            "type": "LoraConfig",
            "r": 3,
            "target_modules": ["attention", "head"],
            "rank_pattern": {"attention": 2},
            "alpha_pattern": {"attention": 5},
            "bias": "lora_only",
        },
    ),
}
CASES = FROM_HERE | {f"by PEFT: {n}": Case("Llama", config=config) for n, config in OF_PEFT.items()}
CASES |= READ


def dense(name: str) -> nn.Module:
    if name in OWN:
        torch.manual_seed(0)
        return getattr(peft_networks, name)().eval()
    if name == "MiniLM":
        transformers = pytest.importorskip("transformers")
        return transformers.BertModel.from_pretrained(MINILM).float().eval()
    return ARCHITECTURES[name].make()


def inputs(name: str) -> dict[str, torch.Tensor]:
    if name == "Endings":
        return {"x": torch.linspace(-1, 1, 12).view(3, 4)}
    if name == "Attention":
        return {"x": torch.linspace(-1, 1, 2 * 3 * 8).sin().view(2, 3, 8)}
    if name == "Convolutions":
        return {"x": torch.linspace(-1, 1, 2 * 3 * 64).sin().view(2, 3, 8, 8)}
    if name == "OtherAxes":
        return {"x": torch.linspace(-1, 1, 2 * 3 * 16).sin().view(2, 3, 16)}
    return ARCHITECTURES["BERT" if name == "MiniLM" else name].inputs


@torch.no_grad()
def outputs(model: nn.Module, name: str) -> torch.Tensor:
    given = inputs(name)
    found = model.eval()(given["x"]) if "x" in given else model.eval()(**given)
    return found if isinstance(found, torch.Tensor) else found[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Of each case its folder, the outputs here, and the base that the adapter belongs to."""
    root = tmp_path_factory.mktemp("peft")
    found, written = {}, []
    for number, (name, case) in enumerate(CASES.items()):
        if case.model == "MiniLM" and not MINILM.exists():
            continue
        folder, base = root / f"{number}", dense(case.model)
        place = root / case.model
        if not place.exists():
            place.mkdir()
            if case.model in OWN:
                save_model(base, str(place / "model.safetensors"))
            else:
                base.save_pretrained(place)
        entry = {"folder": str(folder), "class": type(base).__name__, "base": str(place)}
        entry["inputs"] = {n: values.tolist() for n, values in inputs(case.model).items()}
        entry["merges"] = "tied" not in name and name not in GROUPED
        ours = None
        if case.config is None:
            model = trained(compress(base, case.method, where=case.where).model)
            report = export_peft(model, folder, base, **case.options)
            entry["base"] = str(report.base or place)
            ours = outputs(model, case.model)
        else:
            folder.mkdir()
            entry["config"] = case.config
        written.append(entry)
        found[name] = (case, folder, Path(entry["base"]), ours)
    (root / "cases").write_text(json.dumps(written))
    environment = {n: value for n, value in os.environ.items() if n != "PYTHONPATH"}
    command = [sys.executable, str(PROGRAM), str(root / "cases")]
    done = subprocess.run(
        command, cwd=root, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return found


def of(made, name):
    if name not in made:
        pytest.skip("LOWRANK_HUB has no MiniLM")
    return made[name]


@pytest.mark.parametrize("name", FROM_HERE)
def test_peft_computes_the_same_with_what_is_written(made, name):
    case, folder, _, ours = of(made, name)
    theirs = load_file(folder / "outputs")["outputs"]
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=2e-6)
    dense_outputs = outputs(dense(case.model), case.model)
    # The adapter counts, so that leaving it out would be seen.
    assert (theirs - dense_outputs).abs().max() > 1e-3


@pytest.mark.parametrize("name", FROM_HERE)
def test_peft_merges_what_is_written(made, name):
    _, folder, _, ours = of(made, name)
    found = load_file(folder / "outputs")
    if "merged" in found:
        torch.testing.assert_close(found["merged"], ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FROM_HERE)
def test_peft_finds_all_that_it_looks_for(made, name):
    _, folder, _, _ = of(made, name)
    assert "missing" not in (folder / "warnings").read_text()


@pytest.mark.parametrize("name", READ)
def test_peft_computes_the_same_with_what_is_read(made, name):
    case, folder, _, _ = of(made, name)
    base, theirs = dense(case.model), load_file(folder / "outputs")
    model = load_peft(base, folder)
    torch.testing.assert_close(outputs(model, case.model), theirs["outputs"], rtol=1e-5, atol=2e-6)
    assert (theirs["outputs"] - outputs(base, case.model)).abs().max() > 1e-3
    merge_adapters(model)
    torch.testing.assert_close(outputs(model, case.model), theirs["merged"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in READ if name.startswith("AdaLoRA")])
def test_adalora_is_written_as_lora(made, name, tmp_path):
    case, folder, _, _ = of(made, name)
    base = dense(case.model)
    model = load_peft(base, folder)
    assert export_peft(model, tmp_path, base).kind == "LORA"
    again = load_peft(base, tmp_path)
    torch.testing.assert_close(outputs(again, case.model), outputs(model, case.model))


def test_attention_is_read_onto_codes_and_not_written(made, tmp_path):
    case, folder, _, _ = of(made, "attention")
    base = dense(case.model)
    model, codes = load_peft(base, folder), compress(base, Quantization(4)).model
    assert "2 times" in model.attention.out_proj.factorization.notes[0]
    loaded = load_peft(codes, folder)
    for name in ("attention", "attention.out_proj"):
        frozen, term = loaded.get_submodule(name).factorization.terms
        assert frozen.describe() == codes.get_submodule(name).factorization.describe()
        assert torch.equal(
            term.to_dense(), model.get_submodule(name).factorization.terms[1].to_dense()
        )
    with pytest.raises(ValueError, match="no place for an adapter of a .*MultiheadAttention"):
        export_peft(model, tmp_path, base)


@pytest.mark.parametrize("name", [f"by PEFT: {name}" for name in OF_PEFT])
def test_what_peft_writes_is_read_and_written_again_to_the_bit(made, name, tmp_path):
    case, folder, place, _ = of(made, name)
    base = dense(case.model)
    model = load_peft(base, folder)
    theirs = load_file(folder / "outputs")["outputs"]
    torch.testing.assert_close(outputs(model, case.model), theirs, rtol=1e-5, atol=2e-6)
    assert (theirs - outputs(base, case.model)).abs().max() > 1e-3
    export_peft(model, tmp_path, base, rslora=bool(case.config.get("use_rslora")))
    first, second = (load_file(f / "adapter_model.safetensors") for f in (folder, tmp_path))
    # Where the table is adapted, PEFT saves it too.
    own = {n: tensor for n, tensor in first.items() if not n.endswith("base_layer.weight")}
    assert own.keys() == second.keys()
    for key, tensor in own.items():
        assert second[key].dtype == tensor.dtype and torch.equal(second[key], tensor), key
    loaded = load_peft(base, tmp_path)
    assert torch.equal(outputs(loaded, case.model), outputs(model, case.model))
