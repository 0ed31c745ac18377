"""Block by block against a loop written out by hand."""

import copy
import tempfile
import types
from pathlib import Path

import pytest
import torch
from made_tensors import single_by_sum as random
from torch import nn

from lowrank.calibration import CalibratedNorms
from lowrank.calibration.collect import collect
from lowrank.calibration.data import Batches
from lowrank.compression.compress import compress
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.factorizations import Quantized
from lowrank.measure.memory import AliveTensors
from lowrank.norms import Full
from lowrank.numerics.memo import MEMO

WIDTH = 8
METHOD = TruncatedSVD(rank=2)
SEQUENTIAL = CalibratedNorms("full", damping=0.0, mode="sequential")
SEQUENTIAL_DIAGONAL = CalibratedNorms("diagonal", mode="sequential")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.calls = 0

    def forward(self, x, scale):
        self.calls += 1
        return x + scale * self.down(torch.tanh(self.up(x)))


class Model(nn.Module):
    """A stem, blocks that are handed something of the model's, and a head on two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        x = first = self.stem(x)
        for index, block in enumerate(self.blocks):
            x = block(x, scale=1 + index)
        return self.head(x + first)


def model_and_batches() -> tuple[Model, list[torch.Tensor]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model(), [random(5, WIDTH, seed=seed) for seed in range(3)]


def by_hand(model: nn.Module, units: list[list[str]], batches: list[torch.Tensor]) -> nn.Module:
    """Compress the layers of one unit after the other, each on the model as it is by then."""
    model = copy.deepcopy(model)
    for names in units:
        found = collect(model, names, Batches(batches), full=True)
        for name in names:
            layer = model.get_submodule(name)
            approximation = METHOD.decompose(layer.weight.detach(), Full(found[name].columns))
            layer.weight.data = approximation.to_dense().detach()
    return model


UNITS = [["stem"], *([f"blocks.{i}.up", f"blocks.{i}.down"] for i in range(3)), ["head"]]


def test_each_block_is_calibrated_on_the_compressed_blocks_before_it():
    model, batches = model_and_batches()
    result = compress(model, METHOD, norm=SEQUENTIAL, data=batches)
    x = random(4, WIDTH, seed=9)
    torch.testing.assert_close(result.model(x), by_hand(model, UNITS, batches)(x))
    one_shot = compress(model, METHOD, norm=CalibratedNorms("full", damping=0.0), data=batches)
    assert not torch.allclose(one_shot.model(x), result.model(x), atol=1e-3)
    assert result.calibration is not None and result.calibration["mode"] == "sequential"
    assert {layer.name for layer in result.layers} == {name for unit in UNITS for name in unit}


def test_only_selected_layers_wait_for_their_turn():
    model, batches = model_and_batches()
    result = compress(model, METHOD, where="blocks.[02].*", norm=SEQUENTIAL, data=batches)
    expected = by_hand(model, [UNITS[1], UNITS[3]], batches)
    x = random(4, WIDTH, seed=9)
    torch.testing.assert_close(result.model(x), expected(x))


def test_finished_blocks_do_not_run_again():
    model, batches = model_and_batches()
    result = compress(model, METHOD, norm=SEQUENTIAL, data=batches)
    # Once for the order of calls, then dense and compressed for each batch, but no more.
    assert [block.calls for block in result.model.blocks] == [1 + 2 * 3] * 3
    result = compress(model, METHOD, where="blocks.*", norm=SEQUENTIAL, data=batches)
    # What the last unit returns, nobody asks for.
    assert [block.calls for block in result.model.blocks] == [7, 7, 4]


def test_hooks_and_wrappers_of_blocks_act_once():
    model, batches = model_and_batches()
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, output: 2 * output)
        block.forward = types.MethodType(lambda self, x, scale: Block.forward(self, x, 3), block)
    result = compress(model, METHOD, norm=SEQUENTIAL, data=batches)
    x = random(4, WIDTH, seed=9)
    torch.testing.assert_close(result.model(x), by_hand(model, UNITS, batches)(x))
    assert all("forward" in block.__dict__ for block in result.model.blocks)


def test_a_matrix_is_multiplied_out_once_for_all_batches(monkeypatch):
    model, batches = model_and_batches()
    unpacked, to_dense = [], Quantized.to_dense
    monkeypatch.setattr(Quantized, "to_dense", lambda self: unpacked.append(self) or to_dense(self))
    compress(model, Quantization(bits=4), "blocks.0.*", norm=SEQUENTIAL_DIAGONAL, data=batches)
    alone = len(unpacked)  # By the reports: nothing follows that would run the block.
    compress(model, Quantization(bits=4), "blocks.[01].*", norm=SEQUENTIAL_DIAGONAL, data=batches)
    assert len(unpacked) == alone + 2 * alone + 2


def test_a_block_that_runs_more_often_for_a_later_batch_is_named():
    class Adaptive(Model):
        def forward(self, x):
            for _ in range(2 if bool(x[0, 0] > 5) else 1):
                x = self.blocks[0](x, scale=1)
            return self.head(self.blocks[1](x, scale=1))

    batches = [random(5, WIDTH), random(5, WIDTH) + 9]
    with pytest.raises(ValueError, match="block 'blocks.0' runs more often.*one-shot"):
        compress(Adaptive(), METHOD, where="blocks.[01].*", norm=SEQUENTIAL, data=batches)


def test_blocks_that_share_a_weight_see_both_uses():
    model, batches = model_and_batches()
    model.blocks[2].up.weight = model.blocks[0].up.weight
    result = compress(model, METHOD, where="blocks.*", norm=SEQUENTIAL, data=batches)
    assert result.model.blocks[2].up.factorization is result.model.blocks[0].up.factorization
    found = collect(model, ["blocks.0.up", "blocks.2.up"], Batches(batches), full=True)
    moment = (found["blocks.0.up"].columns + found["blocks.2.up"].columns) / 2
    expected = METHOD.decompose(model.blocks[0].up.weight.detach(), Full(moment)).to_dense()
    torch.testing.assert_close(result.model.blocks[0].up.factorization.to_dense(), expected)
    assert "all 2 modules that share it" in " ".join(result.layers[0].notes)


class Looped(Model):
    """The blocks run twice in each pass."""

    def forward(self, x):
        for _ in range(2):
            for block in self.blocks:
                x = block(x, scale=1)
        return self.head(x)


def test_a_block_that_runs_twice_is_calibrated_on_both_runs():
    model = Looped()
    batches = [random(5, WIDTH)]
    result = compress(model, METHOD, where="blocks.0.*", norm=SEQUENTIAL, data=batches)
    expected = by_hand(model, [UNITS[1]], batches)
    x = random(4, WIDTH, seed=9)
    torch.testing.assert_close(result.model(x), expected(x))


def test_the_modes_of_modules_are_kept_and_no_file_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, batches = model_and_batches()
    model.train()
    model.blocks[1].eval()
    result = compress(model, METHOD, norm=SEQUENTIAL, data=batches)
    assert [m.training for m in result.model.blocks] == [True, False, True]
    assert result.model.blocks[0].up.training and not result.model.blocks[1].up.training
    assert not list(Path(tmp_path).iterdir())
    assert "forward" not in result.model.blocks[0].__dict__


def test_nothing_stays_when_a_block_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, batches = model_and_batches()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bad = {"blocks.2.*": TruncatedSVD(rank=99), "*": METHOD}
    with pytest.raises(ValueError, match="layer 'blocks.2.up': rank=99"):
        compress(model, bad, norm=SEQUENTIAL, data=batches)
    assert not list(Path(tmp_path).iterdir())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())


def test_a_sequence_needs_blocks():
    with pytest.raises(ValueError, match="Projection has none.*one-shot"):

        class Projection(nn.Module):
            def __init__(self):
                super().__init__()
                self.only = nn.Linear(4, 4)

            def forward(self, x):
                return self.only(x)

        compress(Projection(), TruncatedSVD(rank=1), norm=SEQUENTIAL, data=[random(3, 4)])


class Some(Model):
    """Runs the first block, the last where an input is large, and never the one between."""

    def forward(self, x):
        x = self.blocks[0](self.stem(x), scale=1)
        return self.head(self.blocks[2](x, scale=1) if bool(x[0, 0] > 5) else x)


def test_a_block_that_never_runs_stays_and_is_named():
    model, batches = Some(), [random(5, WIDTH)]
    result = compress(model, METHOD, norm=SEQUENTIAL, data=batches)
    compressed = {layer.name for layer in result.layers}
    assert compressed == {"stem", "blocks.0.up", "blocks.0.down", "head"}
    left = {name for name, why in result.left if "no example" in why}
    assert left == {f"blocks.{i}.{part}" for i in (1, 2) for part in ("up", "down")}
    expected = by_hand(model, [UNITS[0], UNITS[1], UNITS[4]], batches)
    x = random(4, WIDTH, seed=9)
    torch.testing.assert_close(result.model(x), expected(x))
    with pytest.raises(ValueError, match="say nothing about any selected layer"):
        compress(model, METHOD, where="blocks.1.*", norm=SEQUENTIAL, data=batches)


def test_a_block_that_a_later_batch_reaches_has_its_place():
    torch.manual_seed(0)
    model = Some()
    batches = [random(5, WIDTH), random(5, WIDTH), random(5, WIDTH)]
    with torch.no_grad():
        model.stem.weight.copy_(torch.eye(WIDTH))
    batches[1][0, 0] += 20
    result = compress(
        model, METHOD, where=["stem", "blocks.*", "head"], norm=SEQUENTIAL, data=batches
    )
    expected = by_hand(model, [UNITS[0], UNITS[1], UNITS[3], UNITS[4]], batches)
    torch.testing.assert_close(result.model(batches[1]), expected(batches[1]))
    assert not torch.equal(result.model(batches[1]), model(batches[1]))


def test_memory_holds_one_block():
    width, depth = 96, 5
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))
    batches = [random(8, width, seed=seed) for seed in range(6)]
    MEMO.clear()
    resident = [*model.parameters(), *batches]
    method = TruncatedSVD(rank=4)
    with AliveTensors(resident) as alive:
        before = alive.now
        compress(model, method, norm=SEQUENTIAL, data=batches)
    statistics = 8 * width**2
    # A decomposition works on a few copies of one statistic; the factors of all layers stay.
    assert alive.peak - before <= 10 * statistics + depth * 4 * 2 * width * 4 + 8 * 4 * 8 * width
    with AliveTensors(resident) as one_shot:
        before = one_shot.now
        compress(model, method, norm=CalibratedNorms("full"), data=batches)
    assert one_shot.peak - before > alive.peak
