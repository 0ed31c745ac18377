"""The networks with published weights: their shapes, their tensors, and that they compress."""

import copy

import pytest
import torch
from published_networks import NETWORKS, config, filled, needs_mirror

from lowrank.compression.compress import compress
from lowrank.decomposers import MagnitudePruning, Quantization, TruncatedSVD
from lowrank.export import checkpoint
from lowrank.model.copying import copied
from lowrank.model.opened import open_weights
from lowrank.model.sites import find_sites
from lowrank.tasks import hub

every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())

METHODS = {
    "low rank": TruncatedSVD(rank=2),
    "quantization": Quantization(bits=8),
    "pruning": MagnitudePruning(0.5),
}


@every_network
def test_shapes_and_sizes(network):
    model = network.made()
    assert sum(parameter.numel() for parameter in model.parameters()) == network.params
    outputs = model(network.example())
    assert outputs.shape == network.outputs and outputs.isfinite().all()


@every_network
def test_every_example_is_by_itself(network):
    model, inputs = network.made().double(), network.example().double()
    both = model(inputs)
    torch.testing.assert_close(model(inputs[1:]), both[1:])
    assert (both[0] - both[1]).abs().max() > 1e-5


@every_network
def test_a_gradient_reaches_every_weight(network):
    model = network.made().train()
    outputs = model(network.example())
    drawn = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2))
    (outputs * drawn).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_network
def test_a_new_network_can_be_copied(network):
    model = network.made()
    state = copy.deepcopy(model).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def written_into(model, result):
    """The dense model with the approximated weights in its own layers."""
    model = open_weights(copied(model).model).model
    for site in find_sites(model):
        use, layer = site.uses[0], result.model.get_submodule(site.name)
        if not hasattr(layer, "factorization"):
            continue
        matrix = layer.factorization.to_dense()
        with torch.no_grad():
            use.rule.weight(use.module).copy_(use.rule.as_weight(use.module, matrix, layer.view))
    return model


@every_network
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_it_is_compressed_and_comes_back_from_a_file(network, method, tmp_path):
    model, inputs = network.made().double(), network.example().double()
    result = compress(model, method, example=(inputs[:1],))
    assert len(result.layers) + len(result.left) == network.layers
    assert len(result.layers) > network.layers / 2
    with torch.no_grad():
        outputs, written = result.model(inputs), written_into(model, result)(inputs)
        torch.testing.assert_close(outputs, written, atol=1e-9, rtol=1e-9)
        assert (outputs - model(inputs)).abs().max() > 1e-6
        checkpoint.save(result.model, tmp_path / "model.safetensors")
        other = network.made(seed=1).double()
        loaded = checkpoint.load(tmp_path / "model.safetensors", other)
        assert torch.equal(loaded(inputs), outputs)
    assert sum(layer.bytes for layer in result.layers) < sum(
        layer.dense_bytes for layer in result.layers
    )


@every_network
def test_eight_bits_change_its_outputs_less_than_three(network):
    model, inputs = network.made(), network.example()
    with torch.no_grad():
        dense = model(inputs)
        few, many = (
            (compress(model, Quantization(bits)).model(inputs) - dense).norm() for bits in (3, 8)
        )
    assert 0 < many < few / 4


@needs_mirror
@every_network
def test_published_weights_load_strictly(network):
    model = filled(network)
    state, published = model.state_dict(), hub.load_weights(network.repository, None)
    # PyTorch counts batches since these weights were made.
    added = {name for name in state.keys() - published.keys()}
    assert all(name.endswith(".num_batches_tracked") for name in added)
    assert not added or network.repository == "sacmehta/espnet-camvid"
    assert all(torch.equal(state[name], tensor) for name, tensor in published.items())


@needs_mirror
@every_network
def test_the_defaults_are_the_published_sizes(network):
    said, plain = config(network), network.made()
    assert said["num_parameters"] == network.params
    assert repr(network.make(**{name: said[name] for name in network.arguments}).eval()) == repr(
        plain
    )
