"""What PEFT itself makes of folders; a program that knows nothing of this library.

Given a file of cases, as JSON, it loads each adapter over its base, or makes one on it, and writes
the outputs and what PEFT warned of beside it.
"""

import json
import sys
import warnings
from pathlib import Path

import peft
import peft_networks
import torch
import transformers
from safetensors.torch import load_model, save_file


def base_of(case):
    """The dense base of a case, from a folder, or from one of `transformers`."""
    own = getattr(peft_networks, case["class"], None)
    if own is not None:
        model = own()
        load_model(model, Path(case["base"], "model.safetensors"))
        return model.eval()
    return getattr(transformers, case["class"]).from_pretrained(case["base"]).float().eval()


def adapted(case):
    """The model with the adapter of the folder, which is made first if there is a config."""
    if "config" in case:
        write(case)
    return peft.PeftModel.from_pretrained(base_of(case), case["folder"]).eval()


def write(case):
    """Write a new adapter."""
    base, fields = base_of(case), dict(case["config"])
    masks = fields.pop("masks", None)
    config = getattr(peft, fields.pop("type"))(**fields)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad:  # As if trained.
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    if masks is not None:  # As AdaLoRA's training leaves them.
        names = [n for n, _ in base.named_parameters() if n.endswith("lora_E.default")]
        config.rank_pattern = dict(zip(names, masks, strict=True))
    model.save_pretrained(case["folder"])


@torch.no_grad()
def outputs(model, case):
    inputs = {name: torch.tensor(values) for name, values in case["inputs"].items()}
    found = model(**inputs) if "x" not in inputs else model(inputs["x"])
    return found if isinstance(found, torch.Tensor) else found[0]


def main(path):
    for case in json.loads(Path(path).read_text()):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = adapted(case)
            found = {"outputs": outputs(model, case)}
            if case["merges"]:
                found["merged"] = outputs(model.merge_and_unload(), case)
            save_file(found, Path(case["folder"], "outputs"))
        Path(case["folder"], "warnings").write_text("\n".join(str(one.message) for one in said))
    assert not any(name.startswith("lowrank") for name in sys.modules)


if __name__ == "__main__":
    main(sys.argv[1])
