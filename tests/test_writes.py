"""A write into the weight of a compressed layer counts, or it is an error: of every form."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from test_contract import INNER, OUT, ROWS, structured
from torch import Tensor, nn

from lowrank.export import checkpoint
from lowrank.model.factorized import FactorizedLinear

ONES = torch.ones(OUT, INNER)

WRITES = {
    "in place": lambda layer: layer.weight.mul_(2),
    "augmented": lambda layer: layer.weight.__iadd__(1),
    "through data": lambda layer: layer.weight.data.add_(1),
    "as adapters are merged": lambda layer: setattr(layer.weight, "data", layer.weight.data + ONES),
    "an entry": lambda layer: layer.weight.__setitem__((0, 0), 1e3),
    "an entry of a view": lambda layer: layer.weight.T[0].__setitem__(0, 1e3),
    "a row": lambda layer: layer.weight[0].zero_(),
    "rows in turn": lambda layer: [row.add_(1) for row in layer.weight],
    "detached": lambda layer: layer.weight.detach().add_(1),
    "copied into": lambda layer: layer.weight.copy_(ONES),
    "clipped": lambda layer: layer.weight.clamp_(-0.01, 0.01),
    "normed": lambda layer: layer.weight.div_(layer.weight.norm()),
    "as output": lambda layer: torch.add(layer.weight, 1, out=layer.weight),
    "as one of many": lambda layer: torch._foreach_add_([torch.ones(2), layer.weight], 1),
    "activated": lambda layer: F.relu(layer.weight, inplace=True),
    "averaged": lambda layer: layer.weight.data.lerp_(ONES, 0.5),
    "masked": lambda layer: layer.weight.data.masked_fill_(ONES.bool(), 1.0),
    "initialised": lambda layer: nn.init.ones_(layer.weight),
    "initialised at random": lambda layer: nn.init.xavier_uniform_(layer.weight),
    "initialised by decomposition": lambda layer: nn.init.orthogonal_(layer.weight),
    "from a vector": lambda layer: nn.utils.vector_to_parameters(ONES.view(-1), [layer.weight]),
    "by numpy": lambda layer: layer.weight.detach().numpy().__setitem__(0, 1.0),
    "assigned": lambda layer: setattr(layer, "weight", nn.Parameter(ONES.clone())),
}


@functools.cache
def compressed(name: str) -> FactorizedLinear:
    return FactorizedLinear(ROWS[name].decompose(structured(torch.float32)), None).eval()


def outputs(layer: nn.Module) -> Tensor:
    return layer(torch.eye(INNER)).detach().clone()


def written(layer: FactorizedLinear, way: str, inference: bool) -> bool:
    """Whether a way to write is no error; one that is must say so."""
    try:
        with torch.inference_mode(inference), torch.no_grad():
            WRITES[way](layer)
    except ValueError as error:
        assert "would be lost" in str(error) or "read-only" in str(error), way
        return False
    return True


@pytest.mark.parametrize(
    ("name", "inference"),
    [(name, False) for name in ROWS]
    + [(name, True) for name in ("kept", "svd", "magnitude", "quantized 8 bits", "codebook")],
)
def test_a_write_counts_or_is_an_error(name, inference):
    before = outputs(compressed(name))
    for way in WRITES:
        layer = copy.deepcopy(compressed(name))
        counts = written(layer, way, inference)
        assert torch.equal(outputs(layer), before) is not counts, way
        runs = outputs(layer)
        assert torch.equal(outputs(layer.train().eval()), runs), way


@pytest.mark.parametrize("name", ROWS)
def test_what_runs_after_a_write_is_what_is_saved(name, tmp_path):
    layer = copy.deepcopy(compressed(name))
    written(layer, "in place", inference=False)
    checkpoint.save(layer, tmp_path / "layer.safetensors")
    dense = nn.Linear(INNER, OUT, bias=False)
    loaded = checkpoint.load(tmp_path / "layer.safetensors", dense).eval()
    assert torch.equal(outputs(loaded), outputs(layer))


@pytest.mark.parametrize("name", ["svd", "quantized 8 bits", "magnitude", "entropy coded"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_no_other_error_comes_first_where_gradients_are_taken(name, write):
    layer = copy.deepcopy(compressed(name))
    with pytest.raises(ValueError, match=r"would be lost|read-only"):
        write(layer)
