"""Examples that run together."""

import pytest
import torch
from torch import nn

from lowrank.model.batch import Batch, together

X, Y = torch.arange(12.0).view(3, 4), torch.arange(3)
REAL = torch.tensor([[True, True, True, False], [True] * 4, [False] * 4])


class Named(nn.Module):
    def forward(self, x, scale=1):
        x += 1
        return x * scale


def test_inputs_go_to_a_model_by_position_or_by_name():
    assert torch.equal(Batch((X, 2)).fresh().run(Named()), (X + 1) * 2)
    assert torch.equal(Batch({"scale": 2, "x": X}).fresh().run(Named()), (X + 1) * 2)


def test_a_model_writes_into_copies():
    kept = X.clone()
    Batch((X,)).fresh().run(Named())
    assert torch.equal(X, kept)


def test_the_first_examples_keep_what_belongs_to_them():
    targets = {"spans": (Y, Y + 1), "scale": torch.tensor(2.0)}
    batch = Batch({"x": X, "mode": "fast"}, targets, {"x": REAL}).first(2)
    assert len(batch) == 2 and batch.inputs["mode"] == "fast"
    assert torch.equal(batch.inputs["x"], X[:2]) and torch.equal(batch.real["x"], REAL[:2])
    assert torch.equal(batch.targets["spans"][1], Y[:2] + 1) and batch.targets["scale"] == 2


def test_a_list_has_one_entry_for_each_example():
    """Such as texts, or boxes, of which each image has its own number."""
    boxes = [torch.zeros(2, 4), torch.ones(1, 4), torch.ones(3, 4)]
    batch = Batch((X,), {"text": ["a", "bc", "d"], "boxes": boxes})
    few = batch.first(2)
    assert few.targets["text"] == ["a", "bc"] and few.targets["boxes"][1] is boxes[1]
    whole = together([few, Batch((X[2:],), {"text": ["d"], "boxes": boxes[2:]})])
    assert torch.equal(whole.inputs[0], X) and whole.targets["text"] == ["a", "bc", "d"]
    assert [len(box) for box in whole.targets["boxes"]] == [2, 1, 3]
    assert few.shapes() == ((2, 4),)


def test_a_batch_without_targets_has_none():
    assert Batch((X,)).first(2).targets is None and together([Batch((X,))] * 2).targets is None


def test_batches_go_together_and_apart():
    parts = [Batch((X[rows], "fast"), {"y": Y[rows]}, {0: REAL[rows]}) for rows in Y.split(1)]
    whole = together(parts)
    assert torch.equal(whole.inputs[0], X) and whole.inputs[1] == "fast"
    assert torch.equal(whole.targets["y"], Y) and torch.equal(whole.real[0], REAL)
    assert len({part.shapes() for part in parts}) == 1 and whole.shapes() != parts[0].shapes()


def test_padding_is_what_is_not_real():
    assert not Batch((X,)).is_padded and not Batch((X[1:2],), real={0: REAL[1:2]}).is_padded
    assert Batch((X,), real={0: REAL}).is_padded and not Batch((X,), real={0: REAL}).is_empty
    assert Batch((X[2:],), real={0: REAL[2:]}).is_empty


def test_of_a_batch_with_padding_every_input_says_what_is_real():
    batch = Batch({"x": X, "image": torch.zeros(3, 2, 5), "y": Y}, real={"x": REAL})
    assert {name: real.tolist() for name, real in batch.whole().real.items()} == {
        "x": REAL.tolist(),
        "image": [[True, True]] * 3,
    }
    assert Batch({"x": X[1:2]}, real={"x": REAL[1:2]}).whole().real == {}


def test_what_was_made_in_inference_mode_is_copied_for_a_graph():
    with torch.inference_mode():
        frozen = torch.ones(2, 3)
    batch = Batch((X, frozen), frozen).trainable()
    assert batch.inputs[0] is X
    assert not batch.inputs[1].is_inference() and not batch.targets.is_inference()


def test_the_only_input_is_that_of_one():
    assert Batch((X,)).only is X and Batch({"x": X}).only is X
    with pytest.raises(ValueError):
        _ = Batch((X, Y)).only


@pytest.mark.parametrize(
    "inputs, real, says",
    [
        (X, {}, "must be a tuple or a mapping by name, and are a Tensor; .* write \\(tensor,\\)"),
        ((X,), {1: REAL}, "names the input 1, and its inputs are 0"),
        ({"x": X}, {"y": REAL}, "names the input 'y', and its inputs are 'x'"),
        ((X,), {0: REAL.float()}, "must be bool of shape .* input 0 it is float32"),
        ((X,), {0: [True]}, "must be bool of shape .* it is list"),
        ((X,), {0: REAL[0]}, r"must be bool of shape \(batch, length\), .* it is bool \(4,\)"),
    ],
)
def test_what_is_no_batch_is_refused(inputs, real, says):
    with pytest.raises(ValueError, match=says):
        Batch(inputs, real=real)
