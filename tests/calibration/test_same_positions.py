"""Sensitivities, tuning and corrections mean the positions that calibration means."""

from dataclasses import dataclass

import pytest
import torch
import transformers as hf
from torch import nn

from lowrank.allocation.allocation import Problem
from lowrank.allocation.analysis import analyse, dense_costs
from lowrank.allocation.losses import OutputDistance
from lowrank.calibration import Batches, IdentityNorms, TaskData
from lowrank.calibration.collect import collect
from lowrank.calibration.task_pieces import task_pieces
from lowrank.compression.compress import compress
from lowrank.decomposers import Quantization
from lowrank.model.select import Select
from lowrank.recovery import BatchNormReestimation, BiasCorrection, Tune
from lowrank.recovery.tuned import Pair
from lowrank.tasks import Batch, ClassScores, Split

PADDING = -1
LENGTHS = [3, 6, 2, 6, 3, 1, 4, 6, 2, 5]


@dataclass(frozen=True)
class Sentences(Split):
    """Each batch padded to its longest."""

    rows: tuple

    def __len__(self):
        return len(self.rows)

    def batch(self, rows):
        found = [self.rows[row] for row in rows.tolist()]
        ids = nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=PADDING)
        return Batch((ids,), ids.clone(), real={0: ids != PADDING})


class Tagger(nn.Module):
    """Scores of 5 classes for each token, (batch, 5, length); positions stand in one row inside."""

    def __init__(self):
        super().__init__()
        self.table, self.layer = nn.Embedding(20, 8), nn.Linear(8, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, ids):
        x = self.norm(torch.relu(self.layer(self.table(ids.clamp(min=0)).flatten(0, 1))))
        return self.head(x).unflatten(0, ids.shape).transpose(1, 2)


@dataclass(frozen=True)
class Tagging(ClassScores):
    seed: int = 0
    device: str = "cpu"
    name = "tagging"
    architecture = "tagger"

    def network(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Tagger().double()

    def model(self):
        return self.network().eval()

    def split(self, name):
        generator = torch.Generator().manual_seed(1)
        rows = (torch.randint(0, 20, (length,), generator=generator) for length in LENGTHS)
        return Sentences(tuple(rows))

    def predictions(self, batch):
        return (batch.targets != PADDING).sum(dim=1)

    def loss(self, outputs, targets):
        raise NotImplementedError

    def metrics(self):
        raise NotImplementedError


TASK = Tagging()


def singles():
    return [row[None] for row in TASK.split("train").rows]


def divergence(model, dense, inputs):
    """KL(dense ‖ model), summed over the positions of sentences alone."""
    total = 0.0
    with torch.no_grad():
        for x in inputs:
            p, q = dense(x).softmax(1), model(x).softmax(1)
            total += float((p * (p / q).log()).sum())
    return total


@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_a_task_runs_its_sentences_without_padding(batch_size):
    model, names = TASK.model(), ["table", "layer", "head"]
    found = collect(model, names, TaskData(TASK, batch_size), full=True)
    plain = collect(model, names, Batches(singles()), full=True)
    for name in names:
        assert found[name].count == sum(LENGTHS) and not found[name].notes
        for part in ("columns", "rows"):
            torch.testing.assert_close(getattr(found[name], part), getattr(plain[name], part))


def test_sentences_of_one_length_run_together_and_each_runs_once():
    groups = list(task_pieces(TASK, TASK.split("train"), 10, None, 10))
    assert [piece.examples for piece in groups[0]] == [2, 3, 2, 1, 1, 1]
    few = [p for group in task_pieces(TASK, TASK.split("train"), 4, None, 6) for p in group]
    assert sorted(p.batch.only.numel() // p.examples for p in few for _ in range(p.examples)) == (
        sorted(LENGTHS[:6])
    )
    rows = [
        row
        for group in task_pieces(TASK, TASK.split("train"), 4, 7, 10)
        for p in group
        for row in p.batch.only
    ]
    assert sorted(map(tuple, map(torch.Tensor.tolist, rows))) == (
        sorted(tuple(row.tolist()) for row in TASK.split("train").rows)
    )


def test_sentences_of_one_length_run_together_across_batches():
    pieces = list(TaskData(TASK, 3).pieces(TASK.model()))
    # By length: 6, 6, 6 are full first; 3, 3 and 2, 2 wait for the end.
    assert sorted((p.batch.only.shape[1], p.examples) for p in pieces) == [
        (1, 1), (2, 2), (3, 2), (4, 1), (5, 1), (6, 3),
    ]  # fmt: skip
    first = list(TaskData(TASK, 3).pieces(TASK.model(), examples=4))
    assert sorted(p.batch.only.shape[1] for p in first for _ in range(p.examples)) == (
        sorted(LENGTHS[:6])
    )


def test_a_sensitivity_counts_every_real_position_of_a_task_once():
    model = TASK.model()
    problem = Problem(model, Select().split(model)[0], IdentityNorms(), TASK)
    option = analyse(problem, [Quantization(2)], dense_costs(problem, "bytes")).options["layer"][1]
    found = OutputDistance(problem, None, 4).of({"layer": option})
    alone = compress(model, Quantization(2), where="layer").model
    expected = divergence(alone, model, singles()) / sum(LENGTHS)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_a_tuning_measures_the_distance_at_real_positions(batch_size):
    dense = TASK.model()
    model = compress(dense, Quantization(2)).model
    tune = Tune(epochs=1, batch_size=batch_size, held_out=0.01, learning_rate=1e-9)
    if batch_size == 10:
        groups = list(task_pieces(TASK, TASK.split("train"), 10, TASK.seed, 10))
        found = Pair(model, dense, TASK).mean_distance(groups)
        assert found == pytest.approx(divergence(model, dense, singles()) / sum(LENGTHS), rel=1e-6)
        return
    held = next(TASK.split("calibration").batches(batch_size, TASK.seed)).only
    alone = [row[row != PADDING][None] for row in held]
    expected = divergence(model, dense, alone) / sum(x.numel() for x in alone)
    record = tune.recover(model, TASK)
    assert record["distances"][0] == pytest.approx(expected, rel=1e-6)
    assert record["examples"] + record["held_out_examples"] == len(LENGTHS)


def test_biases_are_corrected_to_the_means_at_real_positions():
    dense = TASK.model()
    model = compress(dense, Quantization(2)).model.eval()
    record = BiasCorrection().recover(model, TASK)
    assert record == {"corrected_layers": 3, "examples": len(LENGTHS)}

    def outputs(of):
        seen = {"layer": [], "norm": [], "head": []}
        handles = [
            of.get_submodule(name).register_forward_hook(lambda m, a, y, n=name: seen[n].append(y))
            for name in seen
        ]
        with torch.no_grad():
            for x in singles():
                of(x)
        for handle in handles:
            handle.remove()
        return {name: torch.cat(rows) for name, rows in seen.items()}

    ours, theirs = outputs(model), outputs(dense)
    for name in ours:
        torch.testing.assert_close(ours[name].mean(0), theirs[name].mean(0), rtol=0, atol=1e-10)
    torch.testing.assert_close(ours["norm"].std(0), theirs["norm"].std(0), rtol=1e-9, atol=0)


def test_statistics_of_batch_norm_are_not_made_of_padding():
    model = nn.Sequential(nn.Embedding(20, 8), nn.BatchNorm1d(8))
    kept = {name: number.clone() for name, number in model.state_dict().items()}
    with pytest.raises(ValueError, match="batch 0 of the train split of 'tagging' has padding"):
        BatchNormReestimation(2, 5).recover(model, TASK)
    assert all(torch.equal(number, kept[name]) for name, number in model.state_dict().items())


def bert():
    settings = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = hf.BertConfig(vocab_size=60, num_hidden_layers=1, **settings)
        return hf.BertModel(config).eval()


def padded(lengths, longest):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 60, (len(lengths), longest), generator=generator)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def distance(data, name="encoder.layer.0.intermediate.dense"):
    model = bert()
    problem = Problem(model, Select(include=name).split(model)[0], IdentityNorms(), data)
    options = analyse(problem, [Quantization(2)], dense_costs(problem, "bytes")).options
    return OutputDistance(problem, None, 4).of({name: options[name][1]})


@pytest.mark.parametrize("lengths", [[3, 7, 5], [4, 2, 4, 1], [2, 2]])
def test_a_padded_batch_is_as_far_off_as_its_examples_alone(lengths):
    batch = padded(lengths, max(lengths))
    alone = [{"input_ids": batch["input_ids"][i : i + 1, :n]} for i, n in enumerate(lengths)]
    model, error, energy = bert(), 0.0, 0.0
    small = compress(model, Quantization(2), where="encoder.layer.0.intermediate.dense").model
    with torch.no_grad():
        for single in alone:
            ours, theirs = (m(**single).last_hidden_state for m in (small, model))
            error += float((ours - theirs).square().sum())
            energy += float(theirs.square().sum())
    assert distance([batch]) == pytest.approx(error / energy, rel=1e-4)
    assert distance(alone) == pytest.approx(error / energy, rel=1e-4)


def test_splitting_a_batch_changes_no_distance():
    ids = padded([5] * 6, 5)["input_ids"]
    whole, parts = distance([ids]), distance(list(ids.split([1, 3, 2])))
    assert whole == pytest.approx(parts, rel=1e-5)


def test_padding_that_could_not_be_cut_is_left_out_of_a_distance():
    batch = padded([6, 6], 6)
    batch["attention_mask"][0, 2] = 0  # Between real ones.
    model, mask = bert(), batch["attention_mask"].bool()
    small = compress(model, Quantization(2), where="encoder.layer.0.intermediate.dense").model
    with torch.no_grad():
        ours, theirs = (m(**batch).last_hidden_state[mask] for m in (small, model))
    expected = float((ours - theirs).square().sum() / theirs.square().sum())
    assert distance([batch]) == pytest.approx(expected, rel=1e-4)


def test_outputs_of_a_decoder_count_where_the_decoder_is_real():
    config = hf.T5Config(
        vocab_size=40, d_model=8, d_ff=16, num_layers=1, num_heads=2, d_kv=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = hf.T5ForConditionalGeneration(config).eval()
    batch = padded([1, 8], 8)
    batch["input_ids"] = batch["input_ids"] % 40
    batch["labels"] = torch.arange(16).view(2, 8)
    data = Batches([batch])
    piece, other = data.pieces(model)
    with torch.no_grad():
        dense = data.outputs(model, piece.batch)
    wrong = dense.clone()
    wrong[:, 3:] = 0
    expected = dense[:, 3:].square().sum() / dense.square().sum()
    error, energy = data.difference(wrong, dense, piece)
    assert error / energy == pytest.approx(float(expected)) and other.examples == 1
