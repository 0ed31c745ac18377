"""Second moments of inputs against plain computations of what layers do with them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import single_by_sum as random
from torch import nn

from lowrank.calibration import Batches
from lowrank.calibration.collect import collect
from lowrank.measure.memory import AliveTensors
from lowrank.norms import Full

IDS = torch.tensor([[0, 1, 3], [3, 3, 2]])


def test_a_linear_layer_has_the_mean_of_x_x_over_all_positions():
    batches = [random(4, 7, 5), random(2, 7, 5)]
    found = collect(nn.Sequential(nn.Linear(5, 3)), ["0"], Batches(batches), full=True)["0"]
    x = torch.cat([batch.flatten(0, 1) for batch in batches]).double()
    torch.testing.assert_close(found.columns, x.T @ x / 42, rtol=1e-6, atol=1e-7)
    assert found.columns.dtype == torch.float64 and found.rows is None and found.count == 42


def test_the_diagonal_is_that_of_the_full_moment_and_does_not_grow_with_the_data():
    model, batch = nn.Sequential(nn.Linear(5, 3)), random(4, 7, 5)
    full = collect(model, ["0"], Batches([batch]), full=True)["0"]
    diagonal = collect(model, ["0"], Batches([batch]), full=False)["0"]
    again = collect(model, ["0"], Batches([batch] * 3), full=False)["0"]
    torch.testing.assert_close(diagonal.columns, full.columns.diagonal(), rtol=1e-6, atol=0)
    torch.testing.assert_close(again.columns, diagonal.columns)
    assert again.count == 3 * diagonal.count


@settings(max_examples=40)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    mode=st.sampled_from(["zeros", "circular", "replicate"]),
    groups=st.sampled_from([1, 2]),
)
def test_the_norm_of_a_convolution_is_the_error_of_its_outputs(
    kernel, stride, padding, dilation, mode, groups
):
    layer = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups, padding_mode=mode)
    x = random(3, 4, 8, 9)
    found = collect(nn.Sequential(layer), ["0"], Batches([x]), full=True)["0"]
    # With groups the patches of all are pooled: the same change in each sees each of them.
    change = random(6 // groups, 4 // groups, *kernel)
    changed = copy.deepcopy(layer)
    with torch.no_grad():
        changed.weight += change.repeat(groups, 1, 1, 1)
        error = float((changed(x) - layer(x)).double().square().sum())
    norm = Full(found.columns)(change.flatten(1))
    assert found.count * norm**2 == pytest.approx(error, rel=1e-4)


class Gated(nn.Module):
    """The gate of a linear layer is made from a vector that no example has."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Parameter(random(6))
        self.gate, self.layer = nn.Linear(6, 5), nn.Linear(5, 5)

    def forward(self, x):
        return self.layer(x * self.gate(self.code))


def test_a_vector_that_no_example_has_counts_once_for_each_batch():
    model, batches = Gated(), [random(3, 5), random(2, 5)]
    found = collect(model, ["gate", "layer"], Batches(batches), full=True)
    code = model.code.detach().double()
    torch.testing.assert_close(found["gate"].columns, code.outer(code), rtol=1e-6, atol=1e-7)
    assert (found["gate"].count, found["layer"].count) == (2, 5)


def test_a_table_has_the_share_of_look_ups_of_each_row():
    model = nn.Sequential(nn.Embedding(6, 3))
    found = collect(model, ["0"], Batches([torch.tensor([[0, 1, 1], [5, 1, 0]])]), full=True)["0"]
    assert found.columns is None
    assert found.rows.tolist() == pytest.approx([2 / 6, 3 / 6, 0, 0, 0, 1 / 6])


def test_the_transposed_layer_of_gpt2_is_a_linear_layer():
    from transformers.pytorch_utils import Conv1D

    x = random(2, 5, 4)
    found = collect(nn.Sequential(Conv1D(3, 4)), ["0"], Batches([x]), full=True)["0"]
    torch.testing.assert_close(found.columns.float(), x.flatten(0, 1).T @ x.flatten(0, 1) / 10)


class Projections(nn.Module):
    """Layers on one tensor, on a copy of it, and on it after a change in place."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("query", "key", "copied", "changed"):
            self.add_module(name, nn.Linear(4, 4))
        self.separate = False

    def forward(self, x):
        x = x * 1
        y = self.query(x) + self.key(x * 1 if self.separate else x) + self.copied(x.clone())
        x.mul_(2)
        return y + self.changed(x)


def test_layers_with_one_input_share_one_statistic_and_no_others_do():
    model = Projections()
    found = collect(model, list(dict(model.named_children())), Batches([random(3, 4)]), full=True)
    assert found["key"].columns is found["query"].columns
    assert found["copied"].columns is not found["query"].columns
    torch.testing.assert_close(found["changed"].columns, 4 * found["query"].columns)


class Apart(nn.Module):
    """Layers on one tensor, which read it as different vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.strided = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 3, 3, stride=2)
        self.pointwise, self.wrapped = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 3, padding=1)
        self.wrapped.padding_mode = "circular"
        self.same, self.linear = nn.Conv2d(2, 5, 3, padding=1), nn.Linear(6, 3)
        self.small, self.large = nn.Embedding(4, 2), nn.Embedding(9, 2)

    def forward(self, x, ids):
        convolutions = (self.plain, self.strided, self.pointwise, self.wrapped, self.same)
        outputs = [layer(x) for layer in (*convolutions, self.linear)]
        return sum(y.sum() for y in (*outputs, self.small(ids), self.large(ids)))


def test_layers_that_read_one_input_differently_do_not_share():
    model = Apart()
    names, data = list(dict(model.named_children())), Batches([(random(2, 2, 6, 6), IDS)])
    found = collect(model, names, data, full=True)
    for name in names:
        alone = collect(model, [name], data, full=True)[name]
        for part, expected in zip(found[name][:3], alone[:3], strict=True):
            torch.testing.assert_close(part, expected, rtol=0, atol=0)
    assert found["same"].columns is found["plain"].columns


def test_layers_that_share_their_input_only_sometimes_are_told_apart():
    model = Projections()

    class Sometimes(Batches):
        def forward(self, model, batch):
            model.separate = bool(batch.only[0, 0] > 5)
            return batch.run(model)

    second = random(3, 4) + 10
    found = collect(model, ["query", "key"], Sometimes([random(3, 4), second]), full=True)
    assert found["key"].columns is not found["query"].columns
    torch.testing.assert_close(found["key"].columns, found["query"].columns)
    x = torch.cat([random(3, 4), second]).double()
    torch.testing.assert_close(found["key"].columns, x.T @ x / 6, rtol=1e-6, atol=1e-6)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.looped, self.once = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.looped(self.looped(x)) + self.once(x)


def test_a_layer_that_runs_twice_has_the_mean_of_both_inputs():
    model, x = Twice(), random(3, 4)
    found = collect(model, ["looped", "once"], Batches([x]), full=True)
    both = torch.cat([x, model.looped(x).detach()]).double()
    torch.testing.assert_close(found["looped"].columns, both.T @ both / 6, rtol=1e-6, atol=1e-6)
    assert (found["looped"].count, found["once"].count) == (6, 3)
    torch.testing.assert_close(found["once"].columns.float(), x.T @ x / 3)


def test_half_precision_is_added_up_in_double():
    x = (random(4096, 2) + 3).to(torch.bfloat16)
    model = nn.Sequential(nn.Linear(2, 2, dtype=torch.bfloat16))
    found = collect(model, ["0"], Batches(list(x.split(8))), full=True)["0"]
    exact = x.double().T @ x.double() / len(x)
    torch.testing.assert_close(found.columns, exact, rtol=1e-6, atol=0)


def test_the_mode_of_the_model_and_its_hooks_are_as_before():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9))
    model.train()
    model[1].eval()
    collect(model, ["0"], Batches([random(3, 4)]), full=True)
    assert model.training and not model[1].training
    assert not model[0]._forward_pre_hooks


def test_a_layer_that_no_example_reaches_says_so():
    model = Twice()
    model.idle = nn.Linear(2, 2)
    found = collect(model, ["looped", "idle"], Batches([random(3, 4)]), full=True)
    assert found["idle"][:3] == (None, None, 0) and found["looped"].count == 6
    assert found["idle"].notes == ("no example of the calibration data reached it",)


def test_inputs_that_are_not_finite_are_named():
    x = random(3, 4)
    x[0, 0] = float("nan")
    found = collect(nn.Sequential(nn.Linear(4, 4)), ["0"], Batches([x]), full=False)["0"]
    assert found.count == 0 and "its inputs on the calibration data are NaN" in " ".join(
        found.notes
    )


def test_a_weight_that_multiplies_several_inputs_says_so():
    model = nn.MultiheadAttention(4, 2)
    found = collect(model, [""], Batches([(random(3, 1, 4),) * 3]), full=True)[""]
    assert found.count == 0 and "which are not one tensor" in " ".join(found.notes)


@pytest.mark.parametrize("given_data", [[], None, 3])
def test_calibration_data_are_a_list_with_something_in_it(given_data):
    with pytest.raises(ValueError, match="non-empty list of batches"):
        Batches(given_data)


def test_a_batch_with_labels_that_the_model_does_not_take():
    with pytest.raises(ValueError, match=r"tuple of 2, .*leave out what is no input, such as lab"):
        collect(nn.Linear(3, 2), [""], Batches([(torch.ones(4, 3), torch.ones(4))]), full=True)


def test_memory_holds_the_statistics_and_one_batch():
    width, depth = 64, 6
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))
    batches = [random(32, width, seed=seed) for seed in range(8)]
    resident = [*model.parameters(), *batches]
    with AliveTensors(resident) as alive:
        before = alive.now
        collect(model, [str(index) for index in range(depth)], Batches(batches), full=True)
    statistics = depth * 8 * width**2
    activations = 8 * 4 * 32 * width  # a few tensors of one batch
    scratch = 3 * 8 * width**2  # the product of one batch, its mean and the check
    assert alive.peak - before <= statistics + activations + scratch


def test_unfold_is_the_convolution():
    # The independent half of the test above: patches times the kernel are the outputs.
    layer, x = nn.Conv2d(4, 6, 3, padding=1, groups=2), random(2, 4, 5, 5)
    from lowrank.model.factorized import convolution

    patches = convolution(layer, "channel").patches(x)
    kernel = layer.weight.flatten(1)
    per_group = patches.unflatten(1, (2, -1))
    y = torch.einsum("bgpi,goi->bgop", per_group, kernel.unflatten(0, (2, 3))).flatten(1, 2)
    expected = F.conv2d(x, layer.weight, padding=1, groups=2).flatten(2)
    torch.testing.assert_close(y, expected)
