"""What a form keeps between calls, such as the dense matrix of a leaf, is never out of date."""

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import DoRA, LoRA, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.export import checkpoint


def pruned(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return compress(nn.Linear(9, 7), MagnitudePruning(0.5)).model


def outputs(layer: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return layer(torch.eye(9))


def adapted(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return compress(nn.Linear(9, 7), DoRA(LoRA(rank=2, alpha=4))).model


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}])
@pytest.mark.parametrize("made", [pruned, adapted])
def test_a_step_of_any_optimizer_is_seen(made, options):
    layer = made()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, **options)
    before = outputs(layer)
    layer(torch.eye(9)).square().sum().backward()
    optimizer.step()
    after = outputs(layer)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, layer.factorization.to_dense().T + layer.bias)


def test_changes_in_place_and_of_dtype_and_loaded_ones_are_seen():
    layer, other = pruned(), pruned(1)
    before = outputs(layer)
    with torch.no_grad():
        layer.factorization.values.weight.mul_(2)
    assert not torch.equal(outputs(layer), before)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(outputs(layer), outputs(other))
    layer.load_state_dict(pruned().state_dict(), assign=True)
    assert torch.equal(outputs(layer), before)
    assert layer.double()(torch.eye(9).double()).dtype == torch.float64


def test_a_change_through_data_is_seen_at_the_next_eval():
    layer = pruned().eval()
    before = outputs(layer)
    layer.factorization.values.weight.data.zero_()
    layer.eval()
    assert not torch.equal(outputs(layer), before)


@pytest.mark.parametrize("method", [Quantization(4), DoRA(LoRA(rank=2, alpha=4))])
def test_what_is_derived_is_kept_while_nothing_changes(method):
    form = compress(nn.Linear(9, 7), method).model.factorization
    with torch.no_grad():
        assert form.derived() is form.derived()


def test_made_in_inference_mode():
    with torch.inference_mode():
        model = compress(nn.Linear(9, 7), Quantization(4)).model
        assert model(torch.eye(9)).shape == (9, 7)


@pytest.mark.filterwarnings("ignore")
def test_it_can_be_exported():
    model = compress(nn.Linear(9, 7), Quantization(4)).model.eval()
    exported = torch.export.export(model, (torch.eye(9),)).module()
    torch.testing.assert_close(exported(torch.eye(9)), model(torch.eye(9)))


def test_factors_of_rank_one_run_the_same_after_loading(tmp_path):
    """Their columns have a dimension of size 1, whose stride BLAS looks at."""
    for seed in range(50):
        torch.manual_seed(seed)
        dense = nn.Linear(32, 2)
        model = compress(dense, TruncatedSVD(rank=1)).model
        checkpoint.save(model, tmp_path / "model.safetensors")
        loaded = checkpoint.load(tmp_path / "model.safetensors", dense)
        x = torch.randn(1, 32)
        assert torch.equal(model(x), loaded(x))
