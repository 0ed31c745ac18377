"""Spans that tags mark, against the rules of CoNLL written another way."""

import itertools

import numpy as np
import pytest
import torch

from lowrank.tasks.heads.spans import f1_of, has_spans, span_counts, spans_of

TAGS = ("O", "B-X", "I-X", "B-Y", "I-Y")


def by_conlleval(tags):
    """Chunks by the start and end rules of conlleval, on pairs of neighbours."""
    parts = [("O", "")] + [(tag[0], tag[2:]) for tag in tags] + [("O", "")]
    found, start = set(), None
    for at in range(1, len(parts)):
        (before, kind), (now, other) = parts[at - 1], parts[at]
        ends = before != "O" and (now in "BO" or kind != other)
        begins = now != "O" and (now == "B" or before == "O" or kind != other)
        if ends:
            found.add((start, at - 1, kind))
        if begins:
            start = at - 1
    return found


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_spans_of_all_short_texts_are_those_of_conlleval(length):
    for tags in itertools.product(TAGS, repeat=length):
        assert spans_of(tags) == by_conlleval(tags), tags


def test_counts_are_over_words_with_a_class():
    wanted = torch.tensor([[-100, 1, -100, 2, 0], [3, 0, -100, -100, -100]])
    predicted = torch.tensor([[3, 1, 3, 2, 0], [1, 0, 1, 1, 1]])
    counts = span_counts(predicted, wanted, TAGS)
    assert counts.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert f1_of("entity_f1", counts.sum(axis=0)) == pytest.approx(0.5)
    assert np.isnan(f1_of("entity_f1", np.zeros(3)))


def test_spans_are_of_tags_only():
    assert has_spans(TAGS)
    assert not has_spans(("NOUN", "VERB")) and not has_spans(("B-X", "I-X"))
