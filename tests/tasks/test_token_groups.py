"""Groups of tokens, and greedy continuations of texts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lowrank.model.batch import Batch
from lowrank.tasks.class_metrics import IGNORED
from lowrank.tasks.continuations import beginnings, continued
from lowrank.tasks.groupings import fourfold, token_groupings


def followed(inputs):
    """A batch of sequences with the next tokens as targets."""
    nothing = torch.full((len(inputs), 1), IGNORED)
    return Batch((inputs,), torch.cat([inputs[:, 1:], nothing], dim=1))


@given(st.integers(1, 5000))
def test_groups_are_wider_by_four_from_one_to_the_next_and_end_at_the_last_number(most):
    labels, numbers = fourfold(most)
    assert len(numbers) == most and numbers[0] == 0
    ends = [[int(end) for end in label.split("–")] for label in labels]
    for number, (low, *high) in enumerate(ends):
        held = (numbers == number).nonzero()[:, 0] + 1
        assert [int(held[0]), int(held[-1])] == [low, *(high or [low])]
        assert low == 4**number
    assert int(held[-1]) == most


def test_tokens_are_grouped_by_their_rank_in_the_train_split_and_by_what_is_before_them():
    # Token 7 is the most frequent, then 5, 3, 2; token 9 does not occur.
    train = torch.tensor([[7, 7, 7, 7, 5, 5], [5, 3, 3, 2, 7, 7]])
    ranks, positions = token_groupings(train, 6)
    assert ranks.labels == ("1–3", "4", "not seen") and positions.labels == ("1–3", "4–5")
    batch = followed(torch.tensor([[0, 7, 2, 9, 3, 400]]))
    assert ranks.numbers(batch).tolist() == [[0, 1, 2, 0, 2, -1]]
    assert positions.numbers(batch).tolist() == [[0, 0, 0, 1, 1, -1]]
    assert ranks.counts(batch).tolist() == [[2, 1, 2]]
    losses = torch.tensor([[1.0, 10, 100, 3, 300, 5000]])
    assert ranks.means(losses, batch).tolist() == [[2, 10, 200]]
    assert positions.means(losses, batch).tolist() == [[37, 151.5]]


@given(st.integers(1, 4), st.integers(2, 40), st.integers(0, 50))
def test_the_groups_part_the_predictions_and_their_losses(count, length, seed):
    generator = torch.Generator().manual_seed(seed)
    train, test = torch.randint(0, 30, (2, count, length), generator=generator)
    batch = followed(test)
    batch.targets[torch.rand(batch.targets.shape, generator=generator) < 0.2] = IGNORED
    losses = torch.rand(batch.targets.shape, generator=generator)
    counted = batch.targets != IGNORED
    for grouping in token_groupings(train, length):
        counts = grouping.counts(batch)
        assert torch.equal(counts.sum(dim=1), counted.sum(dim=1).double())
        torch.testing.assert_close(
            (counts * grouping.means(losses, batch)).sum(dim=1),
            (losses * counted).double().sum(dim=1),
        )


class Counting(nn.Module):
    """A model that writes the next number; from `breaks` on, 0."""

    def __init__(self, breaks):
        super().__init__()
        self.breaks = breaks

    def forward(self, tokens):
        following = torch.where(tokens + 1 < self.breaks, tokens + 1, 0)
        return SimpleNamespace(logits=F.one_hot(following, 100).double())


class Logits:
    """As a task of a language model runs it."""

    def forward(self, model, batch):
        return batch.run(model).logits


def test_a_continuation_is_the_likeliest_token_each_time():
    prompts = torch.tensor([[3, 4], [8, 9]])
    found = continued(Counting(7), Logits(), prompts, 4)  # type: ignore[arg-type]
    assert found.tolist() == [[5, 6, 0, 1], [0, 1, 2, 3]]


class Whole(nn.Module):
    """A model that keeps nothing from one token to the next."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens, use_cache=False)


def test_kept_keys_and_values_change_no_continuation():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 40}
    torch.manual_seed(0)
    config = LlamaConfig(
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.5, **sizes
    )
    model = LlamaForCausalLM(config).double().eval()
    prompts = torch.randint(0, 40, (5, 7))
    kept, whole = (continued(one, Logits(), prompts, 12) for one in (model, Whole(model)))  # type: ignore[arg-type]
    assert kept.shape == (5, 12) and torch.equal(kept, whole)
    assert len(np.unique(kept)) > 3


def test_prompts_come_from_all_over_a_split_and_fit_into_an_input():
    inputs = torch.arange(60).reshape(10, 6)
    assert beginnings(inputs, 3, 2, 4).tolist() == [[0, 1], [18, 19], [36, 37]]
    with pytest.raises(ValueError, match="prompts=11 is more than the 10 inputs"):
        beginnings(inputs, 11, 2, 4)
    with pytest.raises(ValueError, match="given=3 and written=4 are 7 tokens, more than the 6"):
        beginnings(inputs, 3, 3, 4)
    with pytest.raises(ValueError, match="written"):
        beginnings(inputs, 3, 3, 0)
