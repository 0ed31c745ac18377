import pytest
import scipy.special
import scipy.stats
import torch

from lowrank.tasks import agreement
from lowrank.tasks.agreement import class_agreement


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
