"""Conjugate gradients, against the solution of the linear system."""

import torch
from made_tensors import random_by_sum as random

from lowrank.numerics.conjugate_gradients import descend


def test_conjugate_gradients_end_at_the_minimum_and_never_rise():
    root = random(6, 6)
    matrix, wanted = root @ root.T + torch.eye(6), random(6, 2)
    energy = lambda x: float((x * (matrix @ x)).sum() / 2 - (x * wanted).sum())  # noqa: E731
    points = [descend(lambda x: matrix @ x - wanted, random(6, 2, seed=3), n) for n in range(14)]
    energies = [energy(point) for point in points]
    assert all(
        later <= sooner + 1e-12 for sooner, later in zip(energies, energies[1:], strict=False)
    )
    torch.testing.assert_close(points[-1], torch.linalg.solve(matrix, wanted))


def test_it_stops_at_the_minimum():
    at = random(6, 2)
    assert torch.equal(descend(lambda x: x - at, at.clone(), 5), at)
