"""Weights that share memory: tied in the same layout, left alone in another."""

import copy
import warnings

import pytest
import torch
from torch import nn

from lowrank.calibration import CalibratedNorms
from lowrank.compression.compress import compress
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.export import checkpoint
from lowrank.model.copying import copied
from lowrank.model.shared_memory import identity, overlapping


class Language(nn.Module):
    """A table and a head of one shape, with a layer between them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.body = nn.Embedding(30, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 30, bias=False)

    def forward(self, ids):
        return self.head(torch.relu(self.body(self.table(ids))))


def same_parameter(model):
    model.head.weight = model.table.weight


def parameter_of_it(model):
    model.head.weight = nn.Parameter(model.table.weight)


def data_of_it(model):
    model.head.weight.data = model.table.weight.data


def view_of_it(model):
    model.head.weight = nn.Parameter(model.table.weight.view(30, 16))


def both_of_a_buffer(model):
    flat = torch.randn(480)
    model.table.weight.data = flat.view(30, 16)
    model.head.weight = nn.Parameter(flat[:].view(30, 16))


TIES = [same_parameter, parameter_of_it, data_of_it, view_of_it, both_of_a_buffer]


@pytest.mark.parametrize("tie", TIES)
def test_one_memory_is_one_weight(tmp_path, tie):
    model = Language()
    tie(model)
    ids = torch.randint(0, 30, (2, 5))
    result = compress(model, Quantization(bits=8))
    assert [(layer.name, layer.tied_to) for layer in result.layers] == [
        ("table", ["head"]),
        ("body", []),
    ]
    assert result.model.head.factorization is result.model.table.factorization
    checkpoint.save(result.model, tmp_path / "m.safetensors")
    other = Language()
    tie(other)
    assert torch.equal(checkpoint.load(tmp_path / "m.safetensors", other)(ids), result.model(ids))
    assert result.coverage == pytest.approx((480 + 256) / (480 + 256 + 16))


@pytest.mark.parametrize("tie", TIES)
def test_what_is_not_compressed_stays_tied(tie):
    model = Language()
    tie(model)
    small = compress(model, Quantization(bits=8), where="body").model
    with torch.no_grad():
        small.table.weight.add_(1)
    assert torch.equal(small.head.weight, small.table.weight)
    assert not torch.equal(small.table.weight, model.table.weight)


@pytest.mark.parametrize("tie", TIES)
def test_fisher_information_is_of_all_uses_together(tie):
    reference, model = Language(), Language()
    same_parameter(reference)
    tie(model)
    model.load_state_dict(reference.state_dict())
    found = []
    for one in (reference, model):

        class Loss(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, ids):
                return {"loss": self.inner(ids).logsumexp(-1).square().mean()}

        class Data(dict):
            pass

        class Output:
            def __init__(self, loss):
                self.loss = loss

        wrapped = Loss(one)
        forward = wrapped.forward
        Loss.forward = lambda self, ids, run=forward: Output(run(ids)["loss"])
        ids = torch.arange(10).view(2, 5)
        result = compress(
            wrapped, TruncatedSVD(rank=2), norm=CalibratedNorms("fisher"), data=[{"ids": ids}]
        )
        found.append([layer.norm_error for layer in result.layers])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def transposed(model):
    model.head = nn.Linear(30, 16, bias=False)
    model.head.weight = nn.Parameter(model.table.weight.T)


def rows_of_another(model):
    model.head.weight = nn.Parameter(model.table.weight[:8])


def overlapping_rows(model):
    flat = torch.randn(40, 16)
    model.table.weight = nn.Parameter(flat[:30])
    model.head.weight = nn.Parameter(flat[10:])


def weight_norm(layer):
    """The older one, which sets the weight anew before each run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize("tie", [transposed, rows_of_another, overlapping_rows])
def test_another_layout_of_one_memory_is_left_alone_and_said(tie):
    model = Language()
    tie(model)
    result = compress(model, Quantization(bits=8))
    assert [layer.name for layer in result.layers] == ["body"]
    reasons = dict(result.skipped)
    assert "shares its memory with head.weight in another layout" in reasons["table.weight"]
    assert "shares its memory with table.weight in another layout" in reasons["head.weight"]
    # In the copy they still are one memory.
    with torch.no_grad():
        result.model.table.weight.zero_()
    shared = (
        result.model.head.weight if tie is not overlapping_rows else result.model.head.weight[:20]
    )
    assert not shared.any()
    assert model.table.weight.any()


def test_parts_of_one_memory_that_do_not_overlap_are_weights_of_their_own():
    class Packed(nn.Module):
        """Query, key and value: rows of one matrix, and two of them columns of it."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            rows, columns = torch.randn(48, 16), torch.randn(16, 32)
            self.query, self.key = nn.Linear(16, 16), nn.Linear(16, 32)
            self.left, self.right = nn.Linear(16, 16), nn.Linear(16, 16)
            self.query.weight, self.key.weight = nn.Parameter(rows[:16]), nn.Parameter(rows[16:])
            self.left.weight = nn.Parameter(columns[:, :16])
            self.right.weight = nn.Parameter(columns[:, 16:])

    model = Packed()
    result = compress(model, TruncatedSVD(rank=2))
    assert len(result.layers) == 4 and result.skipped == []
    expected = compress(copy.deepcopy(model), TruncatedSVD(rank=2))
    for layer, other in zip(result.layers, expected.layers, strict=True):
        assert layer.relative_error == pytest.approx(other.relative_error)


def test_overlap_is_by_elements_and_not_by_addresses():
    whole = torch.zeros(6, 8)
    tensors = {"a": whole[:, ::2], "b": whole[:, 1::2], "c": whole[2:4], "d": torch.zeros(6, 8)}
    assert overlapping(tensors) == {"a": ["c"], "c": ["a", "b"], "b": ["c"]}
    assert identity(whole) == identity(whole.view(6, 8)) != identity(whole.T)


def test_a_copy_shares_what_it_is_told_to_and_nothing_else():
    model = Language()
    parameter_of_it(model)
    copy_of, became = copied(model, [model.body.weight])
    assert copy_of.body.weight is model.body.weight
    assert became[id(model.head)] is copy_of.head
    assert identity(copy_of.head.weight) == identity(copy_of.table.weight)
    assert identity(copy_of.head.weight) != identity(model.head.weight)


def test_tensors_that_a_run_left_in_a_module_are_copied_without_their_history():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.log = nn.Linear(8, 8), {"seen": []}
            self.register_buffer("state", torch.zeros(2, 8))

        def forward(self, x):
            self.last = self.layer(x)
            self.log["seen"].append(self.last * 2)
            self.state = self.last + 1
            return self.last

    for model in (Keeps(), nn.Sequential(weight_norm(nn.Linear(8, 8)), Keeps())):
        x = torch.randn(2, 8)
        model(x)
        result = compress(model, TruncatedSVD(rank=8), where="*layer")
        torch.testing.assert_close(result.model(x), model(x))


def test_what_cannot_be_copied_is_said():
    model = nn.Sequential(nn.Linear(8, 8))
    model.lines = (line for line in ["a generator"])
    with pytest.raises(ValueError, match="Sequential, holds something that cannot be copied"):
        compress(model, TruncatedSVD(rank=2))
