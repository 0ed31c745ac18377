"""The comparison with other libraries: their formulas, how bits are counted, what is missing."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import random
from torch import nn

from experiments.benchmarks import budget_curve, peers
from experiments.benchmarks.peer_methods import method as counting
from experiments.benchmarks.peer_methods.cases import PeerComparison, all_cases
from experiments.benchmarks.peer_methods.llm_compressor import (
    LLMCompressorGPTQ,
    missing_interpreter,
    run,
)
from experiments.benchmarks.peer_methods.method import Kept, Method, Outcome, Subject
from experiments.benchmarks.peer_methods.own import Own
from experiments.benchmarks.peer_methods.svd_formulas import ASVD, SVDLLM, blocks, factors
from experiments.benchmarks.peer_methods.torch_pruning import TorchPruning
from lowrank.decomposers import Chain, HalfPrecision, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.measure.size import nbytes


class TwoBlocks(nn.Module):
    """Two blocks of one linear layer each."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 12)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"inner": nn.Linear(12, 12, bias=False)}) for _ in range(2)
        )

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.layers:
            x = x + block["inner"](x).tanh()
        return x


@pytest.fixture
def subject():
    torch.manual_seed(0)
    model = TwoBlocks().requires_grad_(False)
    tokens = torch.randint(16, (20, 9))
    return Subject(model, ("layers.0.inner", "layers.1.inner"), tokens, Path("none"))


def inputs(model, tokens, layer):
    """What a layer of `TwoBlocks` is given, (tokens, in)."""
    x = model.embed(tokens)
    for block in model.layers[:layer]:
        x = x + block["inner"](x).tanh()
    return x.flatten(0, 1).double()


def test_the_svd_of_svd_llm_leaves_the_discarded_spectrum_of_the_outputs():
    weight, x = random(10, 8), random(50, 8, seed=1) @ random(8, 8, seed=2)
    scaling = torch.linalg.cholesky(x.T @ x)
    left, right = factors(weight, scaling, 3)
    discarded = torch.linalg.svdvals(weight @ x.T)[3:]
    error = torch.linalg.matrix_norm((weight - left @ right) @ x.T)
    torch.testing.assert_close(error, torch.linalg.vector_norm(discarded))


def test_asvd_scales_each_input_by_the_root_of_its_mean_magnitude(subject):
    kept = ASVD(0.8).compress(subject).kept
    for number, name in enumerate(subject.layers):
        scaling = torch.diag(inputs(subject.model, subject.tokens, number).abs().mean(dim=0).sqrt())
        left, right = factors(subject.weights()[name], scaling, 4)  # 0.8 · 12 · 12 / 24
        assert kept[name].weight.equal(left.half().float() @ right.half().float())
        assert kept[name].bits == 16 * 4 * 24


@pytest.mark.parametrize("sequential", [False, True])
def test_svd_llm_calibrates_on_the_dense_model_or_on_the_blocks_before(subject, sequential):
    method = SVDLLM(0.8, sequential=sequential)
    before = {name: weight.clone() for name, weight in subject.weights().items()}
    kept = method.compress(subject).kept
    first, second = subject.layers
    model = TwoBlocks()
    model.load_state_dict(subject.model.state_dict())
    model.requires_grad_(False)
    assert all(weight.equal(before[name]) for name, weight in subject.weights().items())
    if sequential:
        model.get_parameter(f"{first}.weight").copy_(kept[first].weight)
    x = inputs(model, subject.tokens, 1)
    left, right = factors(before[second], torch.linalg.cholesky(x.T @ x), 4)
    # The program sums in float32, and factors are rounded to 16 bits.
    torch.testing.assert_close(kept[second].weight.double(), left @ right, atol=2e-3, rtol=0)
    other = SVDLLM(0.8, sequential=not sequential).compress(subject).kept
    assert other[first].weight.equal(kept[first].weight)
    assert not other[second].weight.equal(kept[second].weight)


def test_layers_belong_to_the_block_of_their_first_number():
    names = ("model.layers.0.attention.q", "model.layers.0.mlp", "model.layers.10.mlp", "head")
    assert blocks(names) == [names[:2], names[2:3], names[3:]]


@given(columns=st.integers(1, 300), size=st.integers(1, 300))
def test_group_sizes_divide_and_none_is_nearer(columns, size):
    near, enough = counting.divisor_near(columns, size), counting.divisor_from(columns, size)
    assert columns % near == 0 == columns % enough
    divisors = [d for d in range(1, columns + 1) if columns % d == 0]
    assert all(abs(near - size) <= abs(d - size) for d in divisors)
    assert enough == min((d for d in divisors if d >= size), default=columns)


@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (4, False), (3, False), (3, True)])
def test_quantized_weights_count_as_lowrank_stores_them(bits, symmetric):
    weight, size = random(7, 86).float(), 43
    ours = Quantization(bits, group_size=size, symmetric=symmetric).decompose(weight)
    groups = weight.numel() // size
    zero_bits = 0 if symmetric else bits
    counted = counting.quantized_bits(weight.numel(), bits, groups, zero_bits)
    assert counted == 8 * nbytes(ours)


@pytest.mark.parametrize("sparsity", [0.5, 0.7])
def test_pruned_weights_count_as_lowrank_stores_them(sparsity):
    weight = random(9, 11).float()
    chain = Chain([MagnitudePruning(sparsity=sparsity), HalfPrecision()])
    ours = chain.decompose(weight)
    assert counting.sparse_bits(ours.to_dense()) == 8 * nbytes(ours)


def test_bits_are_of_all_layers_together():
    kept = {
        "a": Kept(torch.zeros(2, 3), bits=24, held_bits=48),
        "b": Kept(torch.zeros(2, 1), bits=24, held_bits=80),
    }
    assert Outcome(kept).bits_per_weight() == 6
    assert Outcome(kept).held_bits_per_weight() == 16


def test_pytorch_prunes_as_many_as_lowrank_and_the_same(subject):
    pruned = TorchPruning(0.7).compress(subject).kept
    ours = Own(lambda _: Chain([MagnitudePruning(sparsity=0.7), HalfPrecision()]))
    same = ours.compress(subject).kept
    for name in subject.layers:
        assert pruned[name].weight.equal(same[name].weight)
        assert pruned[name].bits == same[name].bits
        assert pruned[name].held_bits == 2 * 32 * 12 * 12  # the weight and its mask


def test_own_methods_compress_exactly_the_layers_asked_for(subject):
    one = replace(subject, layers=subject.layers[1:])
    outcome = Own(lambda columns: TruncatedSVD(rank=columns // 3)).compress(one)
    assert list(outcome.kept) == ["layers.1.inner"]
    assert torch.linalg.matrix_rank(outcome.kept["layers.1.inner"].weight) == 4
    with pytest.raises(ValueError, match="other layers were compressed than asked: layers.0.inner"):
        peers.with_weights(subject, outcome)
    judged = peers.with_weights(one, outcome)
    assert judged.get_parameter("layers.0.inner.weight").equal(subject.weights()["layers.0.inner"])


def test_what_is_missing_is_said_with_the_remedy(tmp_path):
    assert counting.not_installed("torch") == ""
    assert counting.not_installed("no_such_peer") == (
        "no_such_peer is not installed: pip install 'lowrank[peers]'"
    )
    assert "give --llmcompressor DIR/bin/python" in missing_interpreter(None)
    assert "is no file" in missing_interpreter(tmp_path / "python")
    assert "pip install llmcompressor" in missing_interpreter(Path(sys.executable))


def test_a_failed_worker_is_an_error_that_shows_its_output(tmp_path, capfd):
    program = tmp_path / "program.py"
    program.write_text("import sys; sys.exit('no such recipe')")
    with pytest.raises(RuntimeError, match="exit status 1"):
        run(Path(sys.executable), program, cwd=tmp_path)
    assert "no such recipe" in capfd.readouterr().err


@dataclass(frozen=True)
class Absent(Method):
    """A peer that is not installed."""

    @property
    def name(self):
        return "absent"

    def missing(self):
        return "it is not installed"

    def compress(self, subject):
        raise AssertionError("it must not run")


def test_a_missing_peer_leaves_its_cells_empty_and_is_named(subject):
    case = PeerComparison("a method", Absent(), Own(lambda _: HalfPrecision()))
    measured = {side: peers.MeasuredMethod(case.name, side.missing()) for side in peers.both(case)}
    measured[case.own].outcome = case.own.compress(subject)
    measured[case.own].quality, measured[case.own].seconds = 5.0, [1.0, 3.0, 2.0]
    table = peers.tabulate([case], measured, "perplexity", "text")
    row = table.cells.iloc[0]
    assert list(row[["bits peer", "perplexity peer", "seconds peer"]]) == ["–"] * 3
    assert row["bits ours"] == "16.00"
    assert row["seconds ours"] == "2.00 (1.00 … 3.00)"
    assert table.values["perplexity_peer"].isna().all()
    assert "**5.000**" in table.to_markdown()
    lines = peers.missing_lines(measured)
    assert lines == ["missing: the rows of absent: it is not installed"]


@pytest.mark.parametrize(
    ("theirs", "bold"),
    [(4.7162, [True, True]), (4.717, [False, True]), (4.71, [True, False])],
)
def test_numbers_that_read_the_same_are_both_bold(theirs, bold):
    case, kept = all_cases(None)[0], {"layer": Kept(torch.zeros(4, 4), 64, 64)}
    measured = {
        side: peers.MeasuredMethod(case.name, "", Outcome(kept), quality)
        for side, quality in zip(peers.both(case), (theirs, 4.7159), strict=True)
    }
    table = peers.tabulate([case], measured, "perplexity", "text")
    assert list(table.best[["perplexity peer", "perplexity ours"]].iloc[0]) == bold


def test_the_table_shows_what_a_library_holds_where_that_is_more():
    kept = {"layer": Kept(torch.zeros(4, 4), bits=64, held_bits=128)}
    measured = peers.MeasuredMethod("a row", "", Outcome(kept), 5.0)
    assert peers.texts("peer", measured, "perplexity")["bits peer"] == "4.00 (8.00)"


def test_every_case_is_complete_and_its_recipes_fit_layers_of_any_size():
    cases = all_cases(None)
    assert len({(case.name, case.setting) for case in cases}) == len(cases)
    for case in cases:
        for columns in (64, 172):
            case.own.recipe(columns)
    needs_it = [case for case in cases if isinstance(case.peer, LLMCompressorGPTQ)]
    assert needs_it
    assert all("--llmcompressor" in case.peer.missing() for case in needs_it)


@pytest.mark.parametrize(
    "words, text",
    [
        (["--only", "nothing"], "no row's name contains --only 'nothing'"),
        (["--task", "nonsense"], "--task nonsense is not in conf/task: there are camvid, causal_"),
        (["--task", "digits"], "--task digits is no causal language model"),
        (["--llmcompressor", "/nowhere"], "--llmcompressor /nowhere is no file: give the Python"),
        (["--llmcompressor", sys.executable], "python.* has no llm-compressor: .* pip install"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(words, text):
    with pytest.raises(SystemExit, match=f"^peers: .*{text}[^\n]*$"):
        peers.main(words)


@pytest.mark.parametrize(
    "words, text",
    [
        (
            "task=nonsense",
            "In 'config': Could not find 'task/nonsense' Available options in 'task'",
        ),
        ("method.nonsense=3", "Could not override 'method.nonsense'"),
    ],
)
def test_a_config_of_the_budget_curve_that_cannot_be(words, text, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["budget_curve", words])
    with pytest.raises(SystemExit, match=f"^budget_curve: {text}[^\n]*$"):
        budget_curve.main()
