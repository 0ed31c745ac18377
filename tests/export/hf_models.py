"""Models that are exported as folders of `transformers`, and what a process without this library
makes of them."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from architectures import ARCHITECTURES, Architecture
from made_networks import trained
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lowrank
from lowrank.export.formats import format_named
from lowrank.export.peft import export_peft

PROGRAM = Path(__file__).with_name("hf_program.py")
HUB = Path(os.environ.get("LOWRANK_HUB", ""), "models")
STORIES, MINILM = (
    HUB / name for name in ("karpathy/stories260K", "sentence-transformers/all-MiniLM-L6-v2")
)
WIDE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
MODELS = ARCHITECTURES | {
    "wide Llama": Architecture(
        "LlamaForCausalLM", "LlamaConfig", WIDE, 16, set(), "lm_head", generates=True
    ),
    "Mixtral": Architecture(
        "MixtralForCausalLM",
        "MixtralConfig",
        WIDE | {"num_local_experts": 2, "num_experts_per_tok": 1, "num_key_value_heads": 2},
        16,
        set(),
        "lm_head",
        generates=True,
    ),
}


def _made(architecture: Architecture, dtype: torch.dtype) -> nn.Module:
    """As `from_pretrained` makes it, which leaves the frequencies of positions in float32."""
    config = getattr(transformers, architecture.config)(**architecture.settings)
    torch.manual_seed(0)
    return getattr(transformers, architecture.model)._from_config(config, dtype=dtype).eval()


COMPRESSED: dict[Any, nn.Module] = {}


@dataclass
class Case:
    """A compressed model in a folder, and its outputs there and here."""

    model: str
    method: Any
    where: Any = None
    dtype: torch.dtype = torch.float32
    options: dict[str, Any] = field(default_factory=dict)
    plan: Any = None
    wanted: dict[str, Tensor] = field(default_factory=dict)
    found: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()
    error: str = ""
    is_adapter: bool = False

    def dense(self) -> nn.Module:
        if self.model == "stories260K":
            return transformers.AutoModelForCausalLM.from_pretrained(STORIES).to(self.dtype).eval()
        if self.model == "MiniLM":
            return transformers.AutoModel.from_pretrained(MINILM).to(self.dtype).eval()
        return _made(MODELS[self.model], self.dtype)

    def compressed(self) -> nn.Module:
        """Made once for all cases of the same model and method."""
        key = (self.model, repr(self.method), repr(self.where), self.dtype)
        if key not in COMPRESSED:
            where = {} if self.where is None else {"where": self.where}
            COMPRESSED[key] = lowrank.compress(self.dense(), self.method, **where).model.eval()
        return COMPRESSED[key]

    @property
    def class_name(self) -> str:
        return {"stories260K": "LlamaForCausalLM", "MiniLM": "BertModel"}.get(self.model) or MODELS[
            self.model
        ].model

    @property
    def inputs(self) -> dict[str, Tensor]:
        own = MODELS.get(self.model, MODELS["Llama"]).inputs
        own = {name: tensor.contiguous() for name, tensor in own.items()}
        return {n: t.to(self.dtype) if t.is_floating_point() else t for n, t in own.items()}

    @property
    def generates(self) -> bool:
        return MODELS.get(self.model, MODELS["Llama"]).generates and self.model != "MiniLM"


@torch.no_grad()
def export(case: Case, folder: Path) -> None:
    """Compress, run and write the model of a case."""
    if case.is_adapter:
        export_adapter(case, folder)
        return
    model = case.compressed()
    case.wanted = {"outputs": model(**case.inputs)[0]}
    if case.generates and "input_ids" in case.inputs:
        first = case.inputs["input_ids"][:1]
        case.wanted["tokens"] = model.generate(first, max_new_tokens=8, do_sample=False)
    case.folder = folder
    options = {"tokenizer": None} | case.options
    case.plan = lowrank.export_model(model, "hf", folder, multiply_out=True, **options)


def export_adapter(case: Case, folder: Path) -> None:
    """Adapt, run and write the model of a case, its base apart."""
    base = case.dense()
    model = trained(lowrank.compress(base, case.method, where=case.where).model).eval()
    case.wanted, case.folder = {"outputs": model(**case.inputs)[0]}, folder / "base"
    base_format = format_named("hf", tokenizer=None)
    case.plan = export_peft(model, folder, base, base_format=base_format).base_plan


def read_elsewhere(cases: dict[str, Case], folder: Path) -> None:
    """Export the models of cases, and let another process load and run them."""
    described = []
    for number, case in enumerate(cases.values()):
        export(case, folder / str(number))
        save_file(case.inputs, folder / f"{number}.inputs")
        described.append(
            {
                "class": case.class_name,
                "folder": str(case.folder),
                "inputs": str(folder / f"{number}.inputs"),
                "result": str(folder / f"{number}.result"),
                "code": case.options.get("code", False),
                "generates": "tokens" in case.wanted,
                "adapter": str(case.folder.parent) if case.is_adapter else "",
            }
        )
    (folder / "cases").write_text(json.dumps(described))
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    environment |= {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, PROGRAM, folder / "cases"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for number, case in enumerate(cases.values()):
        error = folder / f"{number}.result.error"
        if error.exists():
            case.error = error.read_text()
            continue
        case.found = load_file(folder / f"{number}.result")
        case.names = json.loads((folder / f"{number}.result.names").read_text())


def weights_bytes(folder: Path) -> int:
    """Bytes of the numbers in the files of weights."""
    sizes = []
    for path in folder.glob("*.safetensors"):
        content = path.read_bytes()
        sizes.append(len(content) - 8 - int.from_bytes(content[:8], "little"))
    return sum(sizes)
