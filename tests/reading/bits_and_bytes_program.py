"""What transformers and bitsandbytes make of a dense model; a program without this library.

Given the folder of a model and of the results, it writes a folder for each way of quantizing, and
beside it the weights that bitsandbytes itself makes of the codes, in float32.
"""

import sys
from pathlib import Path

import bitsandbytes
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

WAYS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "nf4, double": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "int8": {"load_in_8bit": True},
}


def main(dense, root):
    for name, fields in WAYS.items():
        model = AutoModelForCausalLM.from_pretrained(
            dense, quantization_config=BitsAndBytesConfig(**fields), dtype=torch.float32
        )
        model.save_pretrained(root / name)
        again = AutoModelForCausalLM.from_pretrained(root / name, dtype=torch.float32)
        found = {}
        for layer, module in again.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                found[layer] = bitsandbytes.functional.dequantize_4bit(
                    weight.data, weight.quant_state
                )
            elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
                found[layer] = bitsandbytes.functional.int8_vectorwise_dequant(
                    weight.data, weight.SCB
                )
        save_file({k: v.contiguous() for k, v in found.items()}, root / f"{name}.safetensors")
    assert not any(name.startswith("lowrank") for name in sys.modules)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
