"""The network of the files in data/, which earlier versions wrote.

    PYTHONPATH=<checkout of an earlier version> python tests/export/old_network.py <format>

writes ``data/format-<format>.safetensors`` and, beside it, the outputs of that model.
"""

import sys
from pathlib import Path

import torch
from torch import nn

DATA = Path(__file__).parent / "data"


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    layers = {name: nn.Linear(12, 8) for name in "abcdefghij"}
    tied = {"table": nn.Embedding(10, 12), "head": nn.Linear(12, 10, bias=False)}
    tied["head"].weight = tied["table"].weight
    other = {"kernel": nn.Conv2d(3, 8, 3), "norm": nn.BatchNorm2d(8), "rest": nn.Linear(12, 2)}
    return nn.ModuleDict({**layers, **tied, **other}).eval()


@torch.no_grad()
def outputs(model: nn.ModuleDict) -> dict[str, torch.Tensor]:
    """Of each layer."""
    rows, images = (
        torch.linspace(-1, 1, 24).view(2, 12),
        torch.linspace(-1, 1, 150).view(2, 3, 5, 5),
    )
    inputs = {"table": torch.arange(10), "kernel": images, "norm": torch.ones(1, 8, 1, 1)}
    return {name: layer(inputs.get(name, rows)) for name, layer in model.items()}


def main(form: str) -> None:
    from safetensors.torch import save_file

    import lowrank
    from lowrank import decomposers as methods

    chosen = {
        "a": methods.TruncatedSVD(rank=2),
        "b": methods.Quantization(4),
        "c": methods.Quantization(3, group_size=4, symmetric=False),
        "d": methods.MagnitudePruning(0.5),
        "e": methods.MagnitudePruning(0.95),
        "f": methods.CodebookQuantization(2),
        "g": methods.EntropyCodedQuantization(3),
        "h": methods.HalfPrecision(),
        "i": methods.LoRA(rank=2, alpha=4, base=methods.Quantization(4)),
        "j": methods.Chain([methods.MagnitudePruning(0.5), methods.CodebookQuantization(2)]),
        "table": methods.Quantization(8),
        "kernel": methods.Tucker2(ranks=(4, 2)),
    }
    if form == "3":
        chosen["j"] = methods.EntropyCoding(chosen["j"], "huffman", 4)
    where = lowrank.Select(include=list(chosen))
    model = lowrank.compress(network(), chosen, where=where).model
    lowrank.save(model, DATA / f"format-{form}.safetensors")
    save_file(outputs(model), DATA / f"format-{form}-outputs.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
