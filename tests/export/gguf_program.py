"""What transformers itself makes of GGUF files; a program that knows nothing of this library.

Given folders and dtypes in a file of JSON, it loads the model of each, and writes its weights and
outputs beside it, and the ids that its tokenizer makes of a text.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

FILE = "model.gguf"
TEXT = "Once upon a time, once there was a  girl.\nÄ 12 of 345's<think> a<end>"


@torch.no_grad()
def main(path):
    for folder, has_tokenizer, dtype in json.loads(Path(path).read_text()):
        dtype = getattr(torch, dtype)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=dtype).eval()
        ids = torch.arange(12).view(2, 6) + 3
        greedy = model.generate(ids[:1], do_sample=False, max_new_tokens=8, pad_token_id=0)
        found = dict(model.state_dict()) | {"logits": model(ids).logits, "greedy": greedy}
        if has_tokenizer:
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
            found["text"] = torch.tensor(tokenizer(TEXT).input_ids)
            assert tokenizer.decode(found["text"], skip_special_tokens=True)
        own = {name: tensor.clone() for name, tensor in found.items()}
        save_file(own, Path(folder, "found.safetensors"))
    assert not any(name.startswith("lowrank") for name in sys.modules)


if __name__ == "__main__":
    main(sys.argv[1])
