"""The dense model that a compressed one stands in for."""

import pytest
import torch
from architectures import ARCHITECTURES
from kinds_of_layers import KINDS
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import MagnitudePruning, Quantization, TruncatedSVD
from lowrank.model.dense import dense_model
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.host import Host

METHODS = (TruncatedSVD(rank=2), Quantization(bits=3), MagnitudePruning(0.5))
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def is_plain(model):
    return not any(isinstance(module, FactorizedLayer | Host) for module in model.modules())


@every_kind
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_the_dense_model_of_a_compressed_one_computes_the_same(kind, method):
    dense, model = kind.dense(), compress(kind.dense(), method).model
    result = dense_model(model)
    assert is_plain(result) and not is_plain(model)
    for one, other in zip(kind.outputs(result), kind.outputs(model), strict=True):
        torch.testing.assert_close(one, other)
    if not any("parametrizations" in n or n.endswith(("_g", "_orig")) for n in dense.state_dict()):
        own = {name: tensor.shape for name, tensor in dense.state_dict().items()}
        assert {name: tensor.shape for name, tensor in result.state_dict().items()} == own


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_dense_model_has_the_tensors_of_the_architecture(name):
    architecture = ARCHITECTURES[name]
    dense = architecture.make()
    result = dense_model(compress(dense, Quantization(bits=8)).model)
    assert is_plain(result)
    assert list(result.state_dict()) == list(dense.state_dict())
    loaded = architecture.make(seed=1)
    loaded.load_state_dict(result.state_dict())
    with torch.no_grad():
        outputs = [tensors(m(**architecture.inputs)) for m in (loaded, result)]
        for one, other in zip(*outputs, strict=True):
            torch.testing.assert_close(one, other)
    ids = [id(parameter) for parameter in result.parameters()]
    assert len(ids) == len(list(dense.parameters()))  # Tied weights stay tied.


def tensors(output):
    return [value for value in output.values() if isinstance(value, torch.Tensor)]


def test_a_dense_model_is_equal_to_its_own_and_shares_its_tensors():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    result = dense_model(model)
    assert result is not model
    assert [p.data_ptr() for p in result.parameters()] == [p.data_ptr() for p in model.parameters()]


def test_hooks_and_what_others_set_on_a_layer_are_kept():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].scale = 3
    model[0].register_forward_hook(lambda module, x, y: y * module.scale)
    compressed = compress(model, Quantization(bits=4)).model
    x = torch.randn(2, 4)
    assert dense_model(compressed)[0].scale == 3
    torch.testing.assert_close(dense_model(compressed)(x), compressed(x))
