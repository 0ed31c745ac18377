"""What every kernel must keep: one table, all of the contract.

A new kernel is a new row in `kernel_rows`; the test fails as long as a class has none.
"""

import functools
import importlib
import pkgutil

import pytest
import torch
from contracts import exported
from kernel_rows import DTYPES, INNER, OPERATIONS, OUT, ROWS, Row, every_row, forms
from torch import Tensor, nn

from lowrank import execution
from lowrank.execution import KERNELS, ExecutionPlan, Kernel, Search, Work, optimize_for, search
from lowrank.execution.dense import DenseKernel
from lowrank.execution.kernel import bound, relative_error
from lowrank.execution.search import prepare
from lowrank.execution.timing import Timed
from lowrank.export import checkpoint
from lowrank.factorizations import rebuild
from lowrank.factorizations.operations import Multiply
from lowrank.model.factorized import FactorizedLinear

BATCHES = [(), (0,), (1,), (3,), (33,), (2, 3), (2, 0), (2, 1, 4)]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


@pytest.fixture(autouse=True)
def compiles_quickly(monkeypatch):
    """Compiling records the code, and leaves it to torch to run: no compiler takes its seconds."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def numbers(*shape: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(*shape, generator=generator).to(like)


def close(row: Row, found: Tensor, expected: Tensor) -> bool:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    if not expected.numel():
        return True
    return relative_error(found, expected) <= bound(row.kernel.accuracy, expected.dtype)


def test_every_kernel_is_in_the_table():
    modules = [
        importlib.import_module(f"lowrank.execution.{module.name}")
        for module in pkgutil.iter_modules(execution.__path__)
    ]
    written = set().union(*(exported(one, Kernel, {"refusal", "prepare"}) for one in modules))
    assert written == {type(row.kernel) for row in ROWS.values()}
    assert {kernel.name for kernel in KERNELS} <= {row.kernel.name for row in ROWS.values()}


@every_row
class TestOutputs:
    @pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
    def test_inputs_of_any_batch_shape(self, row, bias):
        work = row.work(bias=bias, dtype=row.dtypes[0])
        assert row.kernel.refusal(work) == ""
        run = prepare(row.kernel, work).run
        for batch in BATCHES:
            x = numbers(*batch, INNER, like=work.x)
            with torch.inference_mode():
                found, expected = run(x), work.native(x)
            assert close(row, found, expected) and found.is_contiguous()

    @pytest.mark.parametrize("shape", [(INNER,), (0, INNER), (1, INNER), (2, 3, INNER)], ids=str)
    def test_whatever_it_was_prepared_for(self, row, shape):
        work = row.work(row.dtypes[0], shape)
        run = prepare(row.kernel, work).run
        for x in (work.x, numbers(5, INNER, like=work.x)):
            with torch.inference_mode():
                assert close(row, run(x), work.native(x))

    def test_inputs_that_are_not_contiguous(self, row):
        work = row.work(row.dtypes[0])
        run = prepare(row.kernel, work).run
        across, apart = numbers(INNER, 6, like=work.x).t(), numbers(6, 2 * INNER, like=work.x)
        deep = numbers(INNER, 2, 3, like=work.x).permute(1, 2, 0)
        for x in (across, apart[:, ::2], deep, across[:1].expand(4, INNER)):
            with torch.inference_mode():
                assert close(row, run(x), work.native(x))

    @every_dtype
    def test_the_dtypes_that_it_is_for_and_no_others(self, row, dtype):
        work = row.work(dtype)
        why = row.kernel.refusal(work)
        assert (why == "") == (dtype in row.dtypes) and "\n" not in why
        if not why:
            with torch.inference_mode():
                assert close(row, prepare(row.kernel, work).run(work.x), work.native(work.x))

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_the_operations_that_it_is_for_and_no_others(self, row, name):
        operation, x = OPERATIONS[name]
        form = row.work().factorization
        work = Work(form, operation, None, x.to(row.device))
        why = row.kernel.refusal(work)
        assert (why == "") == (name in row.operations) and "\n" not in why
        if not why:
            with torch.inference_mode():
                found = prepare(row.kernel, work).run(work.x)
                assert close(row, found, work.native(work.x))

    def test_the_same_every_time(self, row):
        work = row.work(row.dtypes[0])
        torch.manual_seed(0)
        state, found = torch.get_rng_state(), []
        with torch.inference_mode():
            for run in (prepare(row.kernel, work).run, prepare(row.kernel, work).run):
                found += [run(work.x), run(work.x)]
        assert all(torch.equal(one, found[0]) for one in found)
        assert torch.equal(torch.get_rng_state(), state)


@every_row
class TestState:
    def test_what_it_holds_is_counted(self, row):
        work = row.work(row.dtypes[0])
        assert prepare(row.kernel, work).packed_bytes == row.packed_bytes(work.factorization)

    def test_what_a_pass_reads_is_held_or_stored(self, row):
        work = row.work(row.dtypes[0])
        prepared = prepare(row.kernel, work)
        if isinstance(row.kernel, execution.CompiledKernel):
            assert prepared.read_bytes is None  # Nobody knows what a compiler made of it.
            return
        stored = sum(tensor.nbytes for tensor in work.stored())
        assert 0 < prepared.read_bytes <= prepared.packed_bytes + stored

    def test_nothing_else_is_changed(self, row):
        work = row.work(row.dtypes[0])
        form, x = work.factorization, work.x.clone()
        held = {n: (t, t._version, t.clone()) for n, t in form.state_dict(keep_vars=True).items()}
        run = prepare(row.kernel, work).run
        with torch.inference_mode():
            first = run(work.x)
            before = first.clone()
            run(numbers(3, INNER, like=work.x))
        assert torch.equal(first, before)  # No output is written over by the next.
        assert torch.equal(work.x, x)
        after = form.state_dict(keep_vars=True)
        assert after.keys() == held.keys()
        for name, (tensor, version, values) in held.items():
            assert after[name] is tensor and tensor._version == version
            assert torch.equal(tensor, values)

    def test_of_a_factorization_that_was_stored_it_is_the_same(self, row):
        work = row.work(row.dtypes[0])
        twin = rebuild(work.factorization.config()).to(row.device)
        twin.load_state_dict(work.factorization.state_dict())
        again = Work(twin, work.operation, work.bias, work.x)
        one, other = prepare(row.kernel, work), prepare(row.kernel, again)
        with torch.inference_mode():
            assert torch.equal(one.run(work.x), other.run(work.x))
        assert one.packed_bytes == other.packed_bytes

    def test_of_a_model_that_was_saved_its_plan_makes_the_same(self, row, monkeypatch, tmp_path):
        work = row.work(row.dtypes[0])
        dense = nn.Sequential(nn.Linear(INNER, OUT)).to(work.x)
        compact = nn.Sequential(FactorizedLinear(work.factorization, nn.Parameter(work.bias)))
        kernels = tuple({k.name: k for k in (DenseKernel(), row.kernel)}.values())
        monkeypatch.setattr(search, "race", the_second_wins)
        example, looked = (work.x,), Search(kernels=kernels)
        first = optimize_for(compact, example, "int8", search=looked)
        assert first.plan.kernels == {"0": row.kernel.name}
        checkpoint.save(first.model, tmp_path / "model.safetensors")
        loaded = checkpoint.load(tmp_path / "model.safetensors", dense)
        monkeypatch.setattr(search, "race", None)  # Whoever calls it fails.
        plan = ExecutionPlan.from_json(first.plan.to_json())
        second = optimize_for(loaded, example, "int8", plan, looked)
        with torch.inference_mode():
            assert torch.equal(second.model(work.x), first.model(work.x))
            assert close(row, second.model(work.x), work.native(work.x))


def the_second_wins(runs, *_) -> list[Timed]:
    """A race that the kernel beside the dense one wins."""
    speeds = [2.0 if place == 1 else 1.0 for place in range(len(runs))]
    return [Timed(1 / speed, speed, speed, speed) for speed in speeds]


@every_row
class TestGradients:
    def test_of_the_inputs_they_are_right_or_refused(self, row):
        """Also beside another path, where a gradient that is lost would not be missed."""
        work = row.work(row.dtypes[0])
        run = prepare(row.kernel, work).run
        x = work.x.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(work.native(x).square().sum() + x.sum(), x)
        try:
            (found,) = torch.autograd.grad(run(x).square().sum() + x.sum(), x)
        except (RuntimeError, UserWarning):
            return  # Torch says that it has none.
        assert relative_error(found, wanted) <= 3 * bound(row.kernel.accuracy, x.dtype)

    def test_of_the_weights_they_are_right_or_none(self, row):
        work = row.work(row.dtypes[0])
        trained = [p for p in work.factorization.parameters() if p.requires_grad]
        if not trained:
            return
        wanted = torch.autograd.grad(work.native(work.x).square().sum(), trained)
        y = prepare(row.kernel, work).run(work.x)
        if y.requires_grad:
            found = torch.autograd.grad(y.square().sum(), trained)
            for one, other in zip(found, wanted, strict=True):
                assert relative_error(one, other) <= 3 * bound(row.kernel.accuracy, one.dtype)


REFUSED = [
    pytest.param(row.kernel, *refused, id=f"{name}: {refused[0]} {refused[1]}")
    for name, row in ROWS.items()
    for refused in row.refused
]


@pytest.mark.parametrize(("kernel", "form", "shape", "why"), REFUSED)
def test_refusals_say_why(kernel, form, shape, why):
    work = Work(forms(*shape)[form], Multiply(), None, torch.zeros(3, shape[1]))
    assert why in kernel.refusal(work)


def test_without_its_device_a_kernel_says_so():
    work = ROWS["columns"].work(torch.float16)
    assert "CUDA only" in ROWS["semi-structured"].kernel.refusal(work)
