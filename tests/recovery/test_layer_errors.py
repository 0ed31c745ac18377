"""The errors of layers after a recovery: to the dense model that was compressed, or unknown."""

import inspect

import pytest
import torch
from digits_task import QUICK, TASK
from torch import nn

import lowrank.recovery as recoveries
from lowrank.compression.compress import compress
from lowrank.decomposers import (
    Chain,
    CodebookQuantization,
    LoRA,
    LowRankPlusSparse,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
)
from lowrank.norms import Full
from lowrank.point import measure_point
from lowrank.recovery import (
    BatchNormReestimation,
    BiasCorrection,
    DecomposeLeaves,
    FineTune,
    Gradual,
    InOrder,
    LearningCompression,
    NoRecovery,
    Recode,
    Recovery,
    ThawLowRank,
    Tune,
)
from lowrank.tasks import Batch

TRAINING = {"learning_rate": 1e-2, "batch_size": 256}
GRADUAL = Gradual(epochs=2, renewals=2, **TRAINING)
CODEBOOK = Chain([MagnitudePruning(0.5), CodebookQuantization(2)])
# A recovery, and a method that it suits.
ROWS = [
    (NoRecovery(), MagnitudePruning(0.5)),
    (BiasCorrection(), TruncatedSVD(4)),
    (FineTune(epochs=1, **TRAINING), MagnitudePruning(0.5)),
    (FineTune(epochs=1, **TRAINING), TruncatedSVD(4)),
    (FineTune(epochs=1, **TRAINING), Quantization(3)),
    (FineTune(epochs=1, scope="factorizations", **TRAINING), LoRA(2, alpha=2)),
    (GRADUAL, MagnitudePruning(0.5)),
    (GRADUAL, TruncatedSVD(4)),
    (LearningCompression(epochs=2, steps=2, **TRAINING), CodebookQuantization(1)),
    (LearningCompression(epochs=2, steps=2, **TRAINING), MagnitudePruning(0.9)),
    (Tune(epochs=1, batch_size=32), Quantization(3, group_size=16)),
    (Tune(epochs=1, batch_size=32, parts=["codes", "values"]), Quantization(3, group_size=16)),
    (DecomposeLeaves(Quantization(2)), TruncatedSVD(4)),
    (Recode(), CODEBOOK),
    (ThawLowRank(), LowRankPlusSparse(2, 0.5)),
    (InOrder([GRADUAL, DecomposeLeaves(CodebookQuantization(2)), Recode()]), MagnitudePruning(0.9)),
]


def normed(network: nn.Module) -> nn.Module:
    """A network with the statistics that the re-estimation changes."""
    return nn.Sequential(network, nn.BatchNorm1d(10)).eval()


def errors_of(dense: nn.Module, small: nn.Module, name: str) -> float:
    weights = [m.get_submodule(name).weight.detach().double() for m in (dense, small)]
    return float((weights[0] - weights[1]).norm() / weights[0].norm())


def test_every_recovery_of_the_library_has_a_row():
    classes = filter(inspect.isclass, vars(recoveries).values())
    own = {c for c in classes if issubclass(c, Recovery) and c is not Recovery}
    assert own - {type(recovery) for recovery, _ in ROWS} == {BatchNormReestimation}


CASES = [
    *((*row, "identity") for row in ROWS),
    *((*row, "full") for row in ROWS if Full in row[1].norms),
]


@pytest.mark.parametrize(("recovery", "method", "norm"), CASES, ids=repr)
def test_errors_are_those_to_the_dense_model(recovery, method, norm):
    dense = TASK.model()
    data = None if norm == "identity" else TASK
    result = compress(dense, method, norm=norm, data=data)
    before = {layer.name: layer for layer in compress(dense, method, norm=norm, data=data).layers}
    recovery.recover_compressed(result, TASK)
    assert result.dense is dense
    for layer in result.layers:
        is_same = layer.relative_error == before[layer.name].relative_error
        assert layer.relative_error == pytest.approx(errors_of(dense, result.model, layer.name))
        assert layer.bytes == result.model.get_submodule(layer.name).factorization.nbytes
        told = [note for note in layer.notes if note.startswith("not known in the full norm")]
        if norm == "identity":
            assert layer.norm_error == layer.relative_error and not told
        elif is_same:
            assert layer.norm_error == before[layer.name].norm_error and not told
        else:
            assert layer.norm_error is None and len(told) == 1


def network_of_another(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


@pytest.mark.parametrize(
    "recovery", [GRADUAL, FineTune(epochs=1, distill=0.5, **TRAINING), ROWS[8][0]], ids=repr
)
def test_a_model_of_another_is_recovered_and_not_the_task_s(recovery):
    """With other layers than the task's."""
    dense = network_of_another(seed=1)
    kept = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    result = compress(dense, MagnitudePruning(0.5))
    recovery.recover_compressed(result, TASK)
    assert all(torch.equal(kept[name], tensor) for name, tensor in dense.state_dict().items())
    assert [tuple(layer.shape) for layer in result.layers] == [(12, 64), (10, 12)]
    for layer in result.layers:
        assert layer.relative_error == pytest.approx(errors_of(dense, result.model, layer.name))


@pytest.mark.parametrize("recovery", [Tune(epochs=20, batch_size=16), BiasCorrection()], ids=repr)
def test_the_target_is_the_model_that_was_compressed(recovery):
    dense, x = network_of_another(seed=2), torch.cat([b.inputs[0] for b in images()])
    result = compress(dense, Quantization(2))
    distance = (result.model(x) - dense(x)).detach().square().mean()
    recovery.recover_compressed(result, TASK)
    assert (result.model(x) - dense(x)).detach().square().mean() < 0.9 * distance


def images() -> list[Batch]:
    return list(TASK.split("calibration").batches(64))


def test_a_teacher_runs_as_in_evaluation():
    """Dropout in the dense model would make the target noise."""
    dense = nn.Sequential(network_of_another(seed=3), nn.Dropout(0.5)).train()
    found = {}
    for training in (True, False):
        result = compress(dense.train(training), TruncatedSVD(3))
        teach = FineTune(epochs=1, distill=1.0, **TRAINING)
        result.model.eval()
        found[training] = teach.recover_compressed(result, TASK)["losses"]
        assert dense.training == training
    assert found[True] == found[False]


def test_statistics_of_batchnorm_leave_the_errors_alone():
    dense = normed(TASK.model())
    result = compress(dense, TruncatedSVD(4), norm="full", data=TASK)
    before = [(layer.relative_error, layer.norm_error) for layer in result.layers]
    BatchNormReestimation(batches=2, batch_size=32).recover_compressed(result, TASK)
    assert [(layer.relative_error, layer.norm_error) for layer in result.layers] == before


def test_a_zero_weight_that_was_trained_has_no_relative_error():
    dense = TASK.model()
    with torch.no_grad():
        dense.get_submodule(compress(dense, TruncatedSVD(2)).layers[0].name).weight.zero_()
    result = compress(dense, LoRA(2, alpha=2))
    FineTune(epochs=1, **TRAINING).recover_compressed(result, TASK)
    assert result.layers[0].relative_error is None is result.layers[0].norm_error
    assert result.layers[0].notes[-1] == "no relative error: the dense weight is zero"


def test_what_a_note_says_of_the_bytes_follows_a_change_of_form():
    result = compress(TASK.model(), MagnitudePruning(0.01))
    assert [note for note in result.layers[1].notes if note.startswith("larger than")]
    DecomposeLeaves(Quantization(2)).recover_compressed(result, TASK)
    assert result.layers[1].bytes < result.layers[1].dense_bytes
    assert not [note for note in result.layers[1].notes if note.startswith("larger than")]


def test_a_record_has_no_number_that_is_not_known():
    recovery = FineTune(epochs=1, **TRAINING)
    record = measure_point(TASK, TruncatedSVD(4), norm="full", recovery=recovery, measure=QUICK)
    for layer in record["layers"]:
        assert layer["relative_error"] > 0 and layer["norm_error"] is None
        assert "not known in the full norm" in layer["note"]
