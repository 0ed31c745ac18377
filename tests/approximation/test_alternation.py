"""Alternation: what each term is given, and when it ends."""

import pytest
import torch
from made_tensors import random

from lowrank.approximation.alternation import alternated
from lowrank.factorizations import Dense

WEIGHT = random(4, 5)


def recording(given, share):
    """A term that is a share of what it is given."""

    def term(rest):
        given.append(rest)
        return Dense(share * rest)

    return term


def test_each_term_is_given_the_weight_less_all_others():
    given = []
    passes = alternated(WEIGHT, [recording(given, share) for share in (0.5, 0.25, 0.1)], 2)
    first, second = ([term.to_dense().detach() for term in terms] for terms in passes)
    zero = torch.zeros_like(WEIGHT)
    others = [
        *(zero, first[0], first[0] + first[1]),
        *(first[1] + first[2], second[0] + first[2], second[0] + second[1]),
    ]
    for rest, of_others in zip(given, others, strict=True):
        torch.testing.assert_close(rest, WEIGHT - of_others)


def test_a_start_is_what_the_terms_equal_before_the_first_pass():
    given, start = [], [WEIGHT, 0.5 * WEIGHT]
    list(alternated(WEIGHT, [recording(given, 1.0), recording(given, 1.0)], 1, start))
    torch.testing.assert_close(given[0], 0.5 * WEIGHT)
    torch.testing.assert_close(given[1], 0.5 * WEIGHT)
    assert len(start) == 2 and torch.equal(start[0], WEIGHT)


@pytest.mark.parametrize("ends_at, sizes", [(0, []), (1, [1]), (2, [2]), (3, [2, 1]), (9, [2, 2])])
def test_it_ends_where_a_term_has_nothing_to_represent(ends_at, sizes):
    calls = iter(range(100))

    def term(rest):
        return None if next(calls) == ends_at else Dense(rest)

    found = [len(terms) for terms in alternated(WEIGHT, [term, term], 2)]
    assert found == sizes
