"""Notes: each that a part of a compression makes reaches the report, as it is and once."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from lowrank.approximation.low_rank import nearest
from lowrank.calibration import CalibratedNorms, Calibration
from lowrank.compression.compress import compress
from lowrank.compression.layer_report import NO_DROPOUT
from lowrank.decomposers import Chain, Decomposer, LoRA, Quantization, TruncatedSVD
from lowrank.factorizations import Dense, Factorization
from lowrank.model.select import Select
from lowrank.norms import Full, Norm
from lowrank.numerics.spectral import leading

FIRST = "made by hand; and not of two parts"
SECOND = "of no use"


@dataclass(frozen=True)
class Noted(Decomposer):
    """The weight itself, with notes."""

    notes: tuple[str, ...] = (FIRST, SECOND)

    norms: ClassVar[tuple[type[Norm], ...]] = (Norm,)

    def _decompose(self, weight: torch.Tensor, norm: Norm) -> Factorization:
        return Dense(2.5 * weight, notes=self.notes)


class Tied(nn.Module):
    """Two layers of one weight, each with inputs of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.last.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


def calibrated(model: nn.Module, notes: dict[str, tuple[str, ...]]) -> Calibration:
    """Statistics of a model with other notes."""
    norms = CalibratedNorms("full")
    sites, _ = Select().split(model)
    torch.manual_seed(1)
    found = norms.calibrate(model, sites, [torch.randn(20, 6)])
    changed = {name: e._replace(notes=notes[name]) for name, e in found.statistics.items()}
    return replace(found, statistics=changed)


SHARED = "calibrated on the inputs of all 2 modules that share it"


def test_a_report_has_the_notes_of_method_report_and_data_in_this_order_each_once(tmp_path):
    said = {
        "first": ("some padding counts", "a mask was not read"),
        "last": ("a mask was not read",),
    }
    model = Tied()
    data = calibrated(model, said)
    data.save(tmp_path / "statistics")
    for known in (data, Calibration.load(tmp_path / "statistics")):
        (layer,) = compress(model, Noted(), norm="full", data=known).layers
        expected = (FIRST, SECOND, "worse than zeros", SHARED, *said["first"])
        assert layer.notes == expected
        assert layer.row()["note"] == "; ".join(expected) and "notes" not in layer.row()


def test_the_table_of_layers_has_one_text():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    frame = compress(model, {"0": Noted(), "1": Quantization(8)}).to_frame()
    assert list(frame["note"]) == [f"{FIRST}; {SECOND}; worse than zeros", ""]
    assert "notes" not in frame


def test_a_chain_takes_no_note_apart_and_says_none_twice():
    steps = [Noted(), Noted((SECOND,)), Quantization(8)]
    assert Chain(steps).decompose(torch.eye(4)).notes == (FIRST, SECOND)


@pytest.mark.parametrize("values", [None, "bfloat16"])
def test_notes_stay_with_what_stores_the_values(values):
    (layer,) = compress(nn.Sequential(nn.Linear(6, 6)), Noted(), values=values).layers
    assert layer.notes[:2] == (FIRST, SECOND)


def test_a_weight_at_its_nearest_level_has_the_notes_of_that_level_too():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 2))
    steps = [Noted((FIRST,)), TruncatedSVD(compression_ratio=1.99)]
    layers = compress(model, Chain(steps)).layers
    assert [layer.notes.count(FIRST) for layer in layers] == [1, 1, 1]


def test_the_route_to_singular_vectors_is_said_beside_how_many_the_norm_sees():
    torch.manual_seed(0)
    # Singular values that no Gram matrix in float64 tells apart, in a norm that sees ten inputs.
    u, v = (torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0] for _ in range(2))
    weight = u * torch.logspace(0, -13, 40, dtype=torch.float64) @ v
    x = torch.zeros(10, 40, dtype=torch.float64)
    x[:, :10] = torch.eye(10)
    norm = Full(x.T @ x)
    route = leading(norm.whiten(weight), 12).notes
    sees = "the norm sees 10 directions of the weight, the rest are of the plain norm"
    assert nearest(weight, 12, norm).notes == (*route, sees)


class Everywhere(nn.Module):
    """Weights that are looked up, read by the module around them, and multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(9, 6)
        self.memory = nn.LSTM(6, 6, batch_first=True)
        self.last = nn.Linear(6, 6)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_dropout_without_inputs_is_named(dropout):
    compressed = compress(Everywhere(), LoRA(2, 4, dropout=dropout))
    named = {layer.name for layer in compressed.layers if NO_DROPOUT in layer.notes}
    read = {"rows", "memory.ih_l0", "memory.hh_l0"}
    assert named == (read if dropout else set())
