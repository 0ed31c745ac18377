import math

import pytest
import torch
from made_tensors import random, tensor_bytes

from lowrank.approximation.step_curve import StepCurve
from lowrank.decomposers import EntropyCodedQuantization
from lowrank.factorizations import ans
from lowrank.norms import IDENTITY, Full


def correlated(columns, samples, seed=5):
    mixed = random(samples, columns, seed=seed) @ random(columns, columns, seed=seed + 1)
    return mixed.T @ mixed / samples


def matrix(kind):
    """A weight, and the norm of its error."""
    plain, norm = random(96, 128), Full(correlated(128, 400), damping=0.01)
    made = {
        "normal": plain,
        "heavy tails": plain / (random(96, 128, seed=1).abs() + 0.05),
        "uneven rows": plain * torch.exp(random(96, 1, seed=1)),
        "about three values": (plain * 0.8).round().clamp(-1, 1) + 0.05 * random(96, 128, seed=1),
        "of one sign": 1 + 0.1 * plain,
    }
    return made[kind], norm


# The error of a search for one step at a time, at most 12 of them, each written as a stream.
ONE_BY_ONE = [
    ("normal", 1.3, 519.804),
    ("normal", 3.0, 129.208),
    ("normal", 5.0, 30.8047),
    ("heavy tails", 3.0, 331.196),
    ("uneven rows", 2.0, 307.913),
    ("about three values", 1.5, 337.535),
    ("of one sign", 4.0, 14.6394),
]


def test_steps_tried_together_are_as_good_as_one_by_one():
    """Of so few weights, the error of two steps that leave equally much differs by a hundredth."""
    ratios = []
    for kind, bits, error in ONE_BY_ONE:
        weight, norm = matrix(kind)
        found = EntropyCodedQuantization(bits).decompose(weight, norm)
        assert tensor_bytes(found) <= bits * weight.numel() / 8
        ratios.append(norm(weight - found.to_dense()) / error)
    assert max(ratios) < 1.015 and sum(ratios) / len(ratios) < 1.005


def test_few_candidates_are_written_as_streams(monkeypatch):
    written, encode = [], ans.encode
    monkeypatch.setattr(ans, "encode", lambda *given: written.append(given) or encode(*given))
    weight = random(256, 256)
    found = EntropyCodedQuantization(3.0).decompose(weight, IDENTITY)
    assert 3 - 0.006 <= 8 * tensor_bytes(found) / weight.numel() <= 3
    assert 0 < len(written) <= 6


def test_a_curve_gives_the_step_that_leaves_what_is_wanted():
    curve = StepCurve()
    for step in (1.0, 2.0, 4.0):
        curve.add(step, math.log2(step) - 1)
    assert math.isclose(curve.step_for(0.5), 2**1.5)
    assert math.isclose(curve.step_for(-1.2), 2**-0.2)
    curve.learn({3.0: math.log2(3) - 1 + 0.01}, [3.0])
    assert math.isclose(curve.step_for(0.51), 2**1.5) and not curve.jumps
    # Never far beyond its ends.
    assert math.isclose(curve.step_for(9.0), 4 * 2**0.5)


def test_where_a_curve_jumps_the_gap_is_divided():
    curve = StepCurve()
    curve.add(1.0, -0.5)
    curve.add(4.0, 0.5)
    curve.learn({2.0: 0.4}, [2.0])
    assert curve.jumps
    assert curve.about(0.0, 0.01, (1.0, 2.0)) == pytest.approx([2**0.25, 2**0.5, 2**0.75])
