"""A task with a quadratic loss, whose best compressed weights are known."""

from dataclasses import dataclass

import torch
from made_tensors import random_by_sum as random
from torch import nn

from lowrank.tasks import Batch, Split, Task

ROWS, OUT, INNER = 40, 5, 6


@dataclass(frozen=True)
class Rows(Split):
    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self):
        return len(self.inputs)

    def batch(self, rows):
        return Batch((self.inputs[rows],), self.targets[rows])


@dataclass(frozen=True)
class LeastSquares(Task):
    """½ E‖Wx − y‖² for a linear layer without bias.

    Args:
        spread: the roots of the eigenvalues of E[xxᵀ] lie between 1/spread and spread; 1: it is the
            identity.
        trained: whether the dense model is at the least squares, or away from them.
    """

    spread: float = 1.0
    trained: bool = False
    seed: int = 0
    device: str = "cpu"
    name = "least_squares"
    architecture = "linear"

    @property
    def inputs(self):
        basis = torch.linalg.qr(random(ROWS, INNER, seed=self.seed)).Q * ROWS**0.5
        mixed = torch.linalg.qr(random(INNER, INNER, seed=self.seed)).Q
        deviations = self.spread ** torch.linspace(-1, 1, INNER).double()
        return basis @ (deviations[:, None] * mixed)

    @property
    def targets(self):
        noise = 0.3 * random(ROWS, OUT, seed=self.seed + 1)
        return self.inputs @ random(INNER, OUT, seed=self.seed + 2) + noise

    def network(self):
        return nn.Sequential(nn.Linear(INNER, OUT, bias=False, dtype=torch.float64))

    def model(self):
        model = self.network()
        with torch.no_grad():
            away = random(OUT, INNER, seed=self.seed + 3)
            model[0].weight.copy_(self.best() if self.trained else away)
        return model.eval()

    def split(self, name):
        assert name == "train"
        return Rows(self.inputs, self.targets)

    def loss(self, outputs, targets):
        return (outputs - targets).square().sum(dim=1).mean() / 2

    def metrics(self):
        raise NotImplementedError

    def best(self):
        """The least-squares W, (out, in)."""
        return torch.linalg.lstsq(self.inputs, self.targets).solution.T

    def loss_at(self, matrix):
        return float(self.loss(self.inputs @ matrix.T, self.targets))
