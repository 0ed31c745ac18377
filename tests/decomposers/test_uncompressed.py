"""What is kept is the weight itself, and counts as what it takes."""

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import Quantization, Uncompressed
from lowrank.measure.size import nbytes
from lowrank.point.measure import ratios


def test_the_model_gives_the_same_to_the_bit():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    result = compress(model, Uncompressed())
    inputs = torch.randn(5, 2, 4, 4)
    assert torch.equal(result.model(inputs), model(inputs))
    assert nbytes(result.model) == nbytes(model)
    assert all(layer.norm_error == 0 and layer.notes == ("kept dense",) for layer in result.layers)


def test_a_kept_layer_counts_in_the_bits_per_weight_of_the_layers():
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    method = Quantization(bits=8)
    both = compress(model, {"0": method, "1": Uncompressed()})
    alone = compress(model, {"0": method})
    sizes = dict.fromkeys(("bytes", "body_bytes", "params", "macs", "trainable_params"), 1)
    bits = [ratios(sizes, sizes, r.layers)["layers_bits_per_weight"] for r in (both, alone)]
    assert bits[0] == pytest.approx((bits[1] + 32) / 2)
