"""Tensors in containers of every kind."""

from collections import UserDict
from dataclasses import dataclass

import pytest
import torch
from torch.utils._pytree import register_pytree_node

from lowrank.model.nested import fresh, tensors

X = torch.arange(3.0)


@dataclass
class Cache:
    """A class that torch's pytrees know, such as a model's keys and values."""

    keys: torch.Tensor


@dataclass
class Pair:
    left: Cache
    right: torch.Tensor


register_pytree_node(Cache, lambda own: ([own.keys], None), lambda parts, _: Cache(*parts))
register_pytree_node(Pair, lambda own: ([own.left, own.right], None), lambda p, _: Pair(*p))


@pytest.mark.parametrize(
    "value, count",
    [
        ((X, 3, "fast", None), 1),
        ({"a": [X, (X,)]}, 2),
        (UserDict(a=X, b={"c": X}), 2),
        ((Cache(X),), 1),
        ({"caches": [Cache(X), Cache(X)]}, 2),
        (Pair(Cache(X), X), 2),
    ],
    ids=["tuple", "mapping", "mapping of another class", "known class", "in a list", "nested"],
)
def test_every_tensor_is_found_and_copied(value, count):
    copies = tensors(fresh(value))
    assert len(tensors(value)) == len(copies) == count
    for copy in copies:
        assert torch.equal(copy, X) and copy.data_ptr() != X.data_ptr()


def test_what_is_no_tensor_stays_itself():
    other = object()
    assert fresh((other, "fast"))[0] is other
