"""Loads folders of smaller models by their own `load.py`, without lowrank.

    python plain_program.py NETWORK FOLDER [NETWORK FOLDER …]

NETWORK is a function of this file. Each folder has ``inputs.pt`` and gets ``outputs.pt``.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from torch import nn


def mlp():
    return nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 24), nn.Linear(24, 5)).eval()


def convolutions():
    layers = [nn.Conv2d(3, 12, 3, stride=2, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
    layers += [nn.Conv2d(12, 16, 3, padding="same"), nn.ReLU(), nn.ConvTranspose2d(16, 8, 3)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)).eval()


def tied():
    """A table that is the output head too."""
    model = nn.Sequential(nn.Embedding(60, 16), nn.Linear(16, 16), nn.Linear(16, 60, bias=False))
    model[2].weight = model[0].weight
    return model.eval()


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).eval()


def loaded(network, folder):
    spec = importlib.util.spec_from_file_location("load", folder / "load.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program.load(globals()[network]())


def main(arguments):
    sys.modules["lowrank"] = None  # Not to be imported.
    for network, folder in zip(arguments[::2], map(Path, arguments[1::2]), strict=True):
        with torch.no_grad():
            outputs = loaded(network, folder)(torch.load(folder / "inputs.pt"))
        torch.save(getattr(outputs, "logits", outputs), folder / "outputs.pt")


if __name__ == "__main__":
    main(sys.argv[1:])
