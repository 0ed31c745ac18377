"""What every allocation must keep: one table, all of the contract.

A new allocation is a new row in `allocation_rows`; the test fails as long as an exported class has
none.
"""

import copy
import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from allocation_rows import DTYPES, NORMS, ROWS, SITES, Network, inputs, network
from contracts import exported
from torch import Tensor, nn

import lowrank.allocation as allocations
from experiments.parts import make
from lowrank.allocation import (
    Allocation,
    ByName,
    Plan,
    Problem,
    Uniform,
)
from lowrank.calibration import norm_named
from lowrank.compression.compress import check, compress
from lowrank.compression.report import Compressed
from lowrank.decomposers import Decomposer
from lowrank.factorizations import Dense, Half, adapters
from lowrank.model.select import Select
from lowrank.norms import IDENTITY
from lowrank.numerics.memo import MEMO, unchanging

CONF = Path(__file__).parents[2] / "conf"
every_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())


def contents(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def names(result: Compressed) -> set[str]:
    """Of the weights that a plan named, also those that could not take what it gave them."""
    return {layer.name for layer in result.layers} | {name for name, _ in result.left}


def described(plan: Plan) -> dict[str, str]:
    return {name: repr(decomposer) for name, decomposer in plan.decomposers.items()}


def test_every_allocation_is_in_the_table():
    inside = {type(row.allocation) for row in ROWS.values()}
    assert exported(allocations, Allocation, {"allocate"}) == inside


class TestPlan:
    @every_row
    def test_every_weight_is_named_once(self, row):
        plan, sites = row.plan(network()), Select().split(network())[0]
        assert sorted(plan.decomposers) == sorted(row.sites)
        assert all(isinstance(one, Decomposer) for one in plan.decomposers.values())
        assert row.allocation.rules(sites).keys() == plan.decomposers.keys()
        assert plan.factorizations.keys() <= plan.decomposers.keys()

    @every_row
    def test_only_what_is_selected_is_touched(self, row):
        model, part = network(), SITES[:-1]
        assert set(row.plan(model, part).decomposers) == set(row.sites) & set(part)
        result = row.compress(model, where=part)
        for name in ("head", "norm"):
            kept, before = getattr(result.model, name), getattr(model, name)
            assert type(kept) is type(before) and same(contents(kept), contents(before))

    @every_row
    @pytest.mark.parametrize("norm", NORMS)
    def test_it_chooses_in_the_norms_that_it_says_and_in_no_others(self, row, norm):
        if norm in row.norms:
            row.allocation.check_norms((NORMS[norm],))
            assert set(row.plan(network(), norm=norm).decomposers) == set(row.sites)
        else:
            with pytest.raises(ValueError, match="cannot approximate in the norm"):
                row.allocation.check_norms((NORMS[norm],))

    @every_row
    def test_what_it_made_to_choose_by_is_what_its_choice_makes(self, row):
        if "identity" not in row.norms:
            return  # It is made in the norms of the problem, and this one is at hand.
        plan = row.plan(network(), norm="identity")
        sites = {site.name: site for site in Select().split(network())[0]}
        for name, form in plan.factorizations.items():
            again = sites[name].decompose(plan.decomposers[name], IDENTITY)
            assert same(contents(form), contents(again))

    @every_row
    def test_what_a_record_says_of_it_is_json(self, row):
        summary = row.plan(network()).summary
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary

    @every_row
    def test_what_is_known_by_shape_is_what_it_chooses(self, row):
        with torch.device("meta"):
            model = Network()
        norm = row.norms[0]
        check(model, row.allocation, norm=norm)  # It reads no number of the weights.
        problem = Problem(model, Select().split(model)[0], norm_named(norm))
        known = row.allocation.by_shape(problem)
        assert known is None or described(known) == described(row.plan(network()))


class TestBudget:
    @every_row
    @pytest.mark.parametrize("values", [None, "float16", "bfloat16"])
    @pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
    def test_it_is_kept_and_used(self, row, dtype, values):
        model = network(dtype)
        result = row.compress(model, values=values)
        assert names(result) == set(row.sites)
        if row.spent is not None:
            taken, allowed = row.spent(model, result)
            assert 0.5 * allowed < taken <= allowed

    @every_row
    @pytest.mark.parametrize("values", ["float16", "bfloat16"])
    def test_no_real_value_is_stored_in_more_bits_than_asked_for(self, row, values):
        result = row.compress(network(), values=values)
        for layer in result.layers:
            form = result.model.get_submodule(layer.name).factorization
            trained = {id(m) for part in adapters(form) for m in part.modules()}
            real = [
                m
                for m in form.modules()
                if isinstance(m, Half)
                or (isinstance(m, Dense) and not (m.weight.requires_grad and id(m) in trained))
            ]
            if layer.decomposer != "Uncompressed()":
                assert all(isinstance(m, Half) for m in real)
                assert {m.stored_dtype for m in real} <= {getattr(torch, values)}


class TestTheSame:
    @every_row
    def test_whatever_the_state_of_the_generators(self, row):
        found = []
        for seed in (0, 1):
            MEMO.clear()
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            result = copy.deepcopy(row).compress(network())
            assert torch.equal(torch.get_rng_state(), state)
            found.append(contents(result.model))
        assert same(*found)

    @every_row
    def test_twice_on_the_same_model(self, row):
        """Also where costs, errors and losses are kept for the second time."""
        model = unchanging(network())
        first = row.compress(model)
        before = contents(first.model)
        with torch.no_grad():  # What is done to one result does not reach another.
            for tensor in first.model.state_dict().values():
                tensor.zero_()
        second = row.compress(model)
        assert same(contents(second.model), before)
        assert second.layers == row.compress(network()).layers
        assert second.allocation == first.allocation

    @every_row
    def test_the_model_is_left_as_it_was(self, row):
        model = network().train()
        model.key.weight.requires_grad_(False)
        before, modules = contents(model), list(model.named_modules())
        state = {n: (p, p._version, p.requires_grad) for n, p in model.named_parameters()}
        result = row.compress(model)
        with torch.no_grad():
            for tensor in result.model.state_dict().values():
                tensor.zero_()
        assert same(contents(model), before)
        for name, parameter in model.named_parameters():
            kept, version, trained = state[name]
            assert parameter is kept and parameter.grad is None
            assert (parameter._version, parameter.requires_grad) == (version, trained)
        assert [(n, id(m)) for n, m in model.named_modules()] == [(n, id(m)) for n, m in modules]
        for _, module in modules:
            assert module.training and not module._forward_hooks and not module._forward_pre_hooks


class TestHyperparameters:
    @every_row
    def test_level_and_family_are_said(self, row):
        assert row.allocation.level == row.level
        assert row.allocation.family == row.family

    @every_row
    def test_the_fields_rebuild_it(self, row):
        rule = row.allocation
        fields = {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)}
        for twin in (type(rule)(**fields), dataclasses.replace(rule)):
            assert twin == rule and repr(twin) == repr(rule)
        with pytest.raises(dataclasses.FrozenInstanceError):
            rule.anything = None

    @every_row
    def test_a_config_makes_it(self, row):
        made = make(json.loads(json.dumps(as_config(row.allocation))))
        assert (type(made), made.level, made.family) == (
            type(row.allocation),
            row.level,
            row.family,
        )
        twin = dataclasses.replace(row, allocation=made)
        assert described(twin.plan(network())) == described(row.plan(network()))

    def test_a_config_of_each_ships(self):
        """But for those that any method is without being asked for."""
        shipped = " ".join(path.read_text() for path in (CONF / "method").glob("*.yaml"))
        for rule in {type(row.allocation) for row in ROWS.values()} - {Uniform, ByName}:
            assert f"_target_: lowrank.allocation.{rule.__name__}\n" in shipped


def as_config(value: Any) -> Any:
    """A value as a file of configuration has it."""
    if isinstance(value, type):
        return {"_target_": f"{value.__module__}.{value.__qualname__}", "_partial_": True}
    if isinstance(value, functools.partial):
        return as_config(value.func) | {k: as_config(v) for k, v in value.keywords.items()}
    if dataclasses.is_dataclass(value):
        fields = {f.name: as_config(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"_target_": f"{type(value).__module__}.{type(value).__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {key: as_config(one) for key, one in value.items()}
    return [as_config(one) for one in value] if isinstance(value, list | tuple) else value


class TestSmall:
    @every_row
    def test_a_model_of_one_layer(self, row):
        """Which has no name of its own."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Linear(32, 24)
        if row.alone:
            with pytest.raises(ValueError, match=row.alone):
                row.compress(model)
            return
        result = row.compress(model)
        assert len(result.layers) == 1 and not result.left
        if row.spent is not None:
            taken, allowed = row.spent(model, result)
            assert taken <= allowed

    @every_row
    def test_a_weight_of_one_number_has_nothing_to_save(self, row):
        if not row.saves:
            assert not row.compress(nn.Linear(1, 1)).left
            return
        with pytest.raises(ValueError, match=row.alone or "layer|ratio|budget|sparsity"):
            row.compress(nn.Linear(1, 1))

    @every_row
    def test_a_layer_of_zeros(self, row):
        """Dead layers exist; no choice may make NaN of them, or fail."""
        model = network()
        model.key.weight.data.zero_()
        result = row.compress(model)
        assert names(result) == set(row.sites)
        with torch.no_grad():
            assert bool(result.model(inputs()[0]).isfinite().all())
            assert bool((result.model.key.weight[:] == 0).all())


@every_row
def test_what_needs_data_says_so_and_what_does_not_refuses_them(row):
    if row.data:
        with pytest.raises(ValueError, match="give `data`"):
            compress(network(), row.allocation)
    else:
        with pytest.raises(ValueError, match="the calibration data would have no effect"):
            compress(network(), row.allocation, norm="identity", data=inputs())
