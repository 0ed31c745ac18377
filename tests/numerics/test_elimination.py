"""Columns in turn: against loops that keep no blocks."""

import pytest
import torch
from made_tensors import random
from torch import Tensor

from lowrank.numerics.curvature import compensation, inverse_factor
from lowrank.numerics.elimination import eliminate, eliminate_in_turn, sweep


def moment(samples: int, inner: int = 8, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, inner, generator=generator, dtype=torch.float64)
    return x.T @ x * (scale / samples)


@pytest.mark.parametrize("edges", [[0, 12], [0, 1, 5, 6, 12], list(range(13))])
def test_elimination_in_any_blocks_is_that_of_one_column_after_the_other(edges):
    """Every column loses half of itself, and all that follow make up for it at once."""
    rest = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factor = compensation(inverse_factor(moment(40, 12))[0])
    plain, losses = rest.clone(), []
    for column in range(12):
        losses.append(plain[column] / 2)
        plain[column + 1 :] -= torch.outer(factor[column, column + 1 :], losses[-1])

    def settle(begin, end):
        errors = torch.zeros(end - begin, 3, dtype=torch.float64)
        for column in range(begin, end):
            rest[column] -= factor[begin:column, column] @ errors[: column - begin]
            errors[column - begin] = rest[column] / 2
        return errors

    errors = eliminate(rest, factor, edges, settle)
    torch.testing.assert_close(errors, torch.stack(losses))
    torch.testing.assert_close(rest, plain)


@pytest.mark.parametrize("block", [1, 5, 12, 40])
def test_each_column_is_chosen_as_those_before_have_left_it(block, monkeypatch):
    monkeypatch.setattr("lowrank.numerics.elimination.BLOCK", block)
    weight, factor = random(12, 3), compensation(inverse_factor(moment(40, 12))[0])
    plain, rounded = weight.clone(), []
    for column in range(12):
        rounded.append(plain[column].round())
        loss = plain[column] - rounded[-1]
        plain[column + 1 :] -= torch.outer(factor[column, column + 1 :], loss)
    found = torch.empty_like(weight)

    def settler(begin, end):
        def settle(place, values, errors):
            assert begin + place < end
            found[begin + place] = values.round()
            errors[:] = values - found[begin + place]

        return settle

    rest = weight.clone()
    errors = eliminate_in_turn(rest, factor, settler)
    assert torch.equal(found, torch.stack(rounded))
    torch.testing.assert_close(rest, plain)
    torch.testing.assert_close(errors, plain - found)


@pytest.mark.parametrize("block", [1, 5, 40])
def test_a_sweep_takes_every_column_to_the_level_nearest_to_the_best(block, monkeypatch):
    monkeypatch.setattr("lowrank.numerics.elimination.BLOCK", block)
    weight, b, order = random(12, 3), moment(40, 12), torch.arange(12).flip(0)
    plain = weight.round()
    for column in order.tolist():
        others = b[column] @ (weight - plain) - b[column, column] * (weight - plain)[column]
        plain[column] = (weight[column] + others / b[column, column]).round()
    start = weight.round()
    codes, missing = start[order], weight - start

    def chooser(begin, end):
        def choose(place, wanted):
            codes[begin + place] = wanted.round()
            return codes[begin + place]

        return codes[begin:end].clone(), choose

    sweep(missing, b, order, chooser)
    assert torch.equal(codes, plain[order]) and not torch.equal(plain, start)
    torch.testing.assert_close(missing, weight - plain)
