"""What `transformers` makes of folders; a program that knows nothing of this library.

Given a file of cases, as JSON, it loads each folder and writes the outputs beside it.
"""

import json
import sys
import traceback
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file


def loaded(case):
    name, options = case["class"], {}
    if case["code"]:
        config = json.loads(Path(case["folder"], "config.json").read_text())
        name, options = next(iter(config["auto_map"])), {"trust_remote_code": True}
    cls = getattr(transformers, name)
    model, info = cls.from_pretrained(case["folder"], output_loading_info=True, **options)
    wrong = {name: found for name, found in info.items() if found}
    assert not wrong, wrong
    if case["adapter"]:
        import peft

        model = peft.PeftModel.from_pretrained(model, case["adapter"])
    return model.eval()


@torch.no_grad()
def outputs(case):
    model = loaded(case)
    inputs = load_file(case["inputs"])
    found = {"outputs": model(**inputs)[0].contiguous()}
    if case["generates"]:
        first = {"input_ids": inputs["input_ids"][:1]}
        found["tokens"] = model.generate(**first, max_new_tokens=8, do_sample=False)
    names = {name: type(module).__name__ for name, module in model.named_modules()}
    return found, names


def main(path):
    for case in json.loads(Path(path).read_text()):
        try:
            found, names = outputs(case)
        except Exception:
            Path(case["result"] + ".error").write_text(traceback.format_exc())
            continue
        save_file(found, case["result"])
        Path(case["result"] + ".names").write_text(json.dumps(names))


if __name__ == "__main__":
    sys.modules["lowrank"] = None  # Importing it fails.
    main(sys.argv[1])
