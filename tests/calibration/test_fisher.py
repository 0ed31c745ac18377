"""Fisher information against gradients taken one example at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowrank.calibration import Batches
from lowrank.calibration.fisher import fisher
from lowrank.model.sites import find_sites


class WithLoss(Batches):
    def loss(self, model, batch):
        x, y = batch.inputs
        return F.cross_entropy(model(x), y)


def batches(count: int) -> WithLoss:
    generator = torch.Generator().manual_seed(0)
    xs = torch.randn(count, 3, 5, 5, generator=generator)
    ys = torch.randint(0, 4, (count,), generator=generator)
    return WithLoss([(xs[i : i + 1], ys[i : i + 1]) for i in range(count)])


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4))


def test_rows_and_columns_are_sums_of_squared_gradients():
    model, data = network(), batches(5)
    found = fisher(model, {site.name: site for site in find_sites(model)}, data)
    for name, parameter in (("0", model[0].weight), ("3", model[3].weight)):
        squares = torch.zeros_like(parameter, dtype=torch.float64).flatten(1)
        for batch in data.batches():
            model.zero_grad()
            data.loss(model, batch).backward()
            squares += parameter.grad.double().flatten(1).square() / 5
        torch.testing.assert_close(found[name].columns, squares.sum(dim=0))
        torch.testing.assert_close(found[name].rows, squares.sum(dim=1))


def test_frozen_weights_stay_frozen_and_no_gradient_is_left():
    model = network().requires_grad_(False)
    fisher(model, {site.name: site for site in find_sites(model)}, batches(2))
    assert all(not p.requires_grad and p.grad is None for p in model.parameters())


def test_a_tied_weight_has_the_information_of_all_its_uses():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(self.table(ids))

    model, ids = Tied(), torch.tensor([[1], [3]])
    data = WithLoss([(ids[:1].flatten(), ids[1]), (ids[1:].flatten(), ids[0])])
    (site,) = find_sites(model)
    found = fisher(model, {site.name: site}, data)[site.name]
    total = torch.zeros(5, 4, dtype=torch.float64)
    for batch in data.batches():
        (gradient,) = torch.autograd.grad(data.loss(model, batch), [model.table.weight])
        total += gradient.double().square() / 2
    torch.testing.assert_close(found.columns, total.sum(dim=0))


def test_a_weight_that_the_loss_does_not_see_says_so():
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2)})

    class Partly(Batches):
        def loss(self, model, batch):
            return batch.run(model["used"]).sum()

    sites = {site.name: site for site in find_sites(model)}
    found = fisher(model, sites, Partly([torch.ones(1, 3)]))
    assert found["idle"].count == 0 and not found["used"].notes
    assert found["idle"].notes == ("the loss on the calibration data does not depend on it",)
    assert found["used"].columns.tolist() == [2.0, 2.0, 2.0]  # Of each column two gradients of 1.


def test_weights_made_in_inference_mode_have_no_information():
    with torch.inference_mode():
        model = network()
    with pytest.raises(
        ValueError, match=r"layers \['0', '3'\]: their weights were made inside torch.infer"
    ):
        fisher(model, {site.name: site for site in find_sites(model)}, batches(1))


def test_batches_without_a_loss_say_so():
    model = nn.Sequential(nn.Linear(3, 2))
    sites = {site.name: site for site in find_sites(model)}
    with pytest.raises(ValueError, match="returns no loss .* `labels`"):
        fisher(model, sites, Batches([torch.ones(1, 3)]))
