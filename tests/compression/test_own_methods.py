"""Methods of a user's own that do not keep the laws are refused by name."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import lowrank
from lowrank.allocation import Allocation, Plan
from lowrank.decomposers import Decomposer
from lowrank.factorizations import Dense


@dataclass(frozen=True)
class Writes(Decomposer):
    def _decompose(self, weight, norm):
        return Dense(weight.mul_(2).clone())


@dataclass(frozen=True)
class Bare(Decomposer):
    def _decompose(self, weight, norm):
        return weight.clone()


@dataclass(frozen=True)
class Narrow(Decomposer):
    def _decompose(self, weight, norm):
        return Dense(weight[:, :1].clone())


@dataclass(frozen=True)
class Names(Allocation):
    norms: ClassVar = lowrank.TruncatedSVD.norms
    family: ClassVar[str] = "other"

    name: str = "0"
    gives: object = lowrank.TruncatedSVD(1)

    def allocate(self, problem):
        return Plan({self.name: self.gives})


@pytest.mark.parametrize(
    "method, says",
    [
        (Writes(), "Writes wrote into the model's weight"),
        (Bare(), "Bare must give a Factorization of the weight's shape .4, 6.*gave Tensor"),
        (Narrow(), r"Narrow must give .* \(4, 6\), and gave \(4, 1\)"),
        (Names(name="1"), "Names gives a decomposer to '1', which is none of the selected .*: 0"),
        (Names(gives=3), "Names gives '0' a int, and must give a Decomposer"),
    ],
)
def test_what_breaks_a_law_is_named(method, says):
    with pytest.raises(ValueError, match=says):
        lowrank.compress(nn.Sequential(nn.Linear(6, 4)), method)


def test_what_keeps_the_laws_is_taken():
    model = nn.Sequential(nn.Linear(6, 4))
    before = model[0].weight.clone()
    assert len(lowrank.compress(model, Names()).layers) == 1
    assert torch.equal(model[0].weight, before)
