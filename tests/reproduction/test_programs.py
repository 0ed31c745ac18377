"""The programs behind tables that are no sweeps: they go on, and their measures are right."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.reproduction import robust_pca
from experiments.reproduction.entry import Run
from experiments.reproduction.matrices import DecomposedMatrices, HadamardMatrix, NormalMatrix
from experiments.reproduction.programs import Program
from experiments.reproduction.runs import program
from lowrank import CodebookQuantization, Quantization, TruncatedSVD, Uncompressed

MEASURED = []


@dataclass(frozen=True)
class Doubled(Program):
    numbers: tuple[int, ...]
    seeds: int = 1

    def cases(self):
        for number in self.numbers:
            for seed in range(self.seeds):
                yield {"number": number, "seed": seed}

    def measure(self, case):
        if case["number"] < 0:
            raise RuntimeError("interrupted")
        MEASURED.append(case["number"])
        return {"double": 2 * case["number"]}


def test_an_interrupted_program_goes_on_where_it_was(tmp_path):
    MEASURED.clear()
    with pytest.raises(RuntimeError):
        Doubled((1, 2, -3, 4)).run(tmp_path)
    assert MEASURED == [1, 2] and not list(tmp_path.glob("*.tmp"))
    Doubled((1, 2, 4)).run(tmp_path)
    assert MEASURED == [1, 2, 4]
    frame = Doubled((1, 2, 4)).load(tmp_path)
    assert list(frame["double"]) == [2, 4, 8]
    # Those of other settings lie there too, and are not read.
    assert list(Doubled((4,)).load(tmp_path)["double"]) == [8]
    assert Doubled((5,)).load(tmp_path).empty


def test_cases_that_differ_in_the_seed_alone_are_one_point(tmp_path):
    made = Doubled((1, 2), seeds=3)
    made.run(tmp_path)
    counts = made.load(tmp_path).groupby("point")["seed"].count()
    assert list(counts) == [3, 3]


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"_target_": "lowrank.TruncatedSVD", "rank": 1}, "must be a Program"),
        ({"_target_": "experiments.reproduction.robust_pca.Nothing"}, "Nothing"),
        (
            {"_target_": "experiments.reproduction.robust_pca.RobustPcaProblems", "size": 1},
            "has no field size",
        ),
        (
            {
                "_target_": "experiments.reproduction.matrices.DecomposedMatrices",
                "kind": {"_target_": "experiments.reproduction.matrices.HadamardMatrix", "n": 4},
                "methods": {"a": 1},
            },
            "methods.a must be a Decomposer",
        ),
    ],
)
def test_what_is_no_program_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        program(Run(takes="seconds", program=settings))


def test_problems_of_robust_pca_are_as_the_paper_draws_them():
    low_rank, sparse = robust_pca.problem(200, 0.05, 0.1, seed=0)
    assert torch.linalg.matrix_rank(low_rank) == 10
    # Entries of X Yᵀ have the variance rank / n².
    assert float(low_rank.square().mean() * 200**2 / 10) == pytest.approx(1, abs=0.2)
    kept = sparse[sparse != 0]
    assert len(kept) == 4000 and set(kept.tolist()) == {-1.0, 1.0}
    assert abs(float(kept.mean())) < 0.1
    assert not torch.equal(sparse, robust_pca.problem(200, 0.05, 0.1, seed=1)[1])


def test_robust_pca_recovers_few_outliers_and_not_many(tmp_path):
    made = robust_pca.RobustPcaProblems({60: 1}, [0.05], [0.05, 0.6], max_iterations=100)
    made.run(tmp_path)
    easy, hard = made.load(tmp_path).to_dict("records")
    assert easy["error"] < 1e-5 and easy["recovered"] == 1.0
    assert (easy["rank"], easy["nonzeros"]) == (3, 180)
    assert hard["error"] > 0.1 and hard["recovered"] == 0.0


def measures(kind, method) -> dict[str, float]:
    made = DecomposedMatrices(kind, {"a": method})
    return made.measure(next(made.cases()))


def test_measures_of_quantizers_are_those_of_theory():
    """One bit for a normal distribution: levels ±√(2/π), error 1 − 2/π, one bit of entropy."""
    kind = NormalMatrix(64, 256)
    for method in (CodebookQuantization(1), Quantization(1, "tensor", scale_dtype="float32")):
        found = measures(kind, method)
        assert found["relative_mse"] == pytest.approx(1 - 2 / math.pi, rel=1e-3)
        assert found["step"] == pytest.approx(2 * math.sqrt(2 / math.pi), rel=1e-3)
        assert (found["levels"], found["entropy"]) == (2, pytest.approx(1, abs=1e-6))
        assert found["stored_bits"] == pytest.approx(1, abs=0.01)
        least = 0.5 * math.log2(1 / found["relative_mse"])
        assert found["gap"] == pytest.approx(found["stored_bits"] - least)


def test_an_exact_form_has_no_gap():
    found = measures(HadamardMatrix(8), Uncompressed())
    assert found["relative_mse"] == 0 and "gap" not in found
    assert (found["levels"], found["params"]) == (2, 64)


@given(exponent=st.integers(0, 5))
def test_hadamard_matrices_are_orthogonal(exponent):
    matrix = HadamardMatrix(2**exponent).draw(seed=0)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(2**exponent))


def test_no_rank_is_left_out_of_a_hadamard_matrix_without_its_share_of_the_error():
    """All its singular values are 1: rank r leaves 1 − r/n (Eckart and Young)."""
    assert measures(HadamardMatrix(16), TruncatedSVD(4))["relative_mse"] == pytest.approx(0.75)


def test_quantiles_are_as_normal_as_can_be_and_in_another_order_with_each_seed():
    kind = NormalMatrix(100, 100)
    first, second = kind.draw(0), kind.draw(1)
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.flatten().sort().values, second.flatten().sort().values)
    assert float(first.mean()) == pytest.approx(0, abs=1e-6)
    assert float(first.square().mean()) == pytest.approx(1, abs=2e-3)
    # Neighbours in the matrix have nothing to do with each other.
    pairs = torch.stack([first[:, :-1].flatten(), first[:, 1:].flatten()])
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.05
