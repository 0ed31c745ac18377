import pytest
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F

from lowrank.tasks import agreement, score_parts
from lowrank.tasks.agreement import (
    class_agreement,
    class_divergence,
    counted_agreement,
    counted_divergence,
)
from lowrank.tasks.token_sequences import token_loss


def test_predictions_per_pixel_count_each_by_itself():
    dense = torch.zeros(2, 3, 4, 5)
    dense[:, 1] = 1
    outputs = dense.clone()
    outputs[0, 2, 0, 0] = 2
    measured = class_agreement(outputs, dense)
    assert measured["flipped"].shape == measured["kl"].shape == (2, 4, 5)
    assert measured["flipped"].sum() == measured["flipped"][0, 0, 0] == 1
    p, q = (scipy.special.softmax(x) for x in ([0, 1, 0], [0, 1, 2]))
    assert measured["kl"][0, 0, 0] == pytest.approx(scipy.stats.entropy(p, q))
    assert measured["kl"].count_nonzero() == 1


@pytest.mark.parametrize("chunk", [1, 30, 10**6])
def test_parts_of_a_batch_are_the_batch(monkeypatch, chunk):
    torch.manual_seed(0)
    outputs, dense = torch.randn(2, 7, 10)
    p, q = (scipy.special.softmax(x.double().numpy(), axis=1) for x in (dense, outputs))
    monkeypatch.setattr(agreement, "CHUNK", chunk)
    measured = class_agreement(outputs, dense)
    assert measured["kl"].numpy() == pytest.approx(scipy.stats.entropy(p, q, axis=1), rel=1e-12)
    assert torch.equal(measured["flipped"].bool(), outputs.argmax(1) != dense.argmax(1))


@pytest.mark.parametrize("at_once", [1, 35, 10**6])
def test_predictions_that_count_are_taken_a_few_at_a_time(monkeypatch, at_once):
    torch.manual_seed(0)
    outputs, dense = torch.randn(2, 3, 4, 7).requires_grad_()
    counted = torch.rand(3, 4) < 0.6
    monkeypatch.setattr(score_parts, "AT_ONCE", at_once)
    found = counted_agreement(outputs, dense, counted)
    wanted = class_agreement(outputs[counted], dense[counted])
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    distances = (
        counted_divergence(outputs, dense, counted),
        class_divergence(outputs[counted], dense[counted]),
    )
    gradients = [torch.autograd.grad(one, outputs)[0] for one in distances]
    torch.testing.assert_close(*distances)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("at_once", [1, 35, 10**6])
def test_losses_of_tokens_are_taken_a_few_at_a_time(monkeypatch, at_once):
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 7).requires_grad_()
    targets = torch.randint(0, 7, (3, 4)).masked_fill(torch.rand(3, 4) < 0.3, -100)
    wanted = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    monkeypatch.setattr(score_parts, "AT_ONCE", at_once)
    losses = token_loss(logits, targets), wanted
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in losses))
    if at_once == 10**6:
        assert torch.equal(*losses)
