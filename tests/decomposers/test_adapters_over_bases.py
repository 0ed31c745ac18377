"""Every adapter over every form of a base: what is trained, what stays, and what comes of it."""

import copy
from dataclasses import dataclass

import pytest
import torch
from made_tensors import random_by_sum as random
from test_contract import INNER, OUT, ROWS, Row, structured
from torch import Tensor, nn

import lowrank
from lowrank.decomposers import (
    Adapter,
    Decomposer,
    DoRA,
    LoRA,
    LoRAXS,
    SharedLoRA,
    Uncompressed,
    VeRA,
    merge,
)
from lowrank.factorizations import Factorization, adapters
from lowrank.factorizations.operations import Convolve
from lowrank.norms import Norm
from lowrank.recovery import merge_adapters

# One base of each set of forms.
BASES = {
    frozenset(row.kinds): (name, row)
    for name, row in reversed(ROWS.items())
    if not isinstance(row.decomposer, Adapter)
}
every_base = pytest.mark.parametrize(
    "row", [row for _, row in BASES.values()], ids=[name for name, _ in BASES.values()]
)


@dataclass(frozen=True)
class Made(Decomposer):
    """The form of a base that was made before."""

    row: Row
    dtype: torch.dtype

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        pass

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        return self.row.form(self.dtype)


# By name, of a base; all start from zero.
ADAPTERS = {
    "LoRA": lambda base: LoRA(3, 6, base=base),
    "rsLoRA": lambda base: LoRA(3, 6, base=base, scaling="alpha/sqrt(rank)"),
    "DoRA": lambda base: DoRA(LoRA(3, 6, base=base)),
    "LoRA-XS": lambda base: LoRAXS(3, 6, base=base),
    "VeRA": lambda base: VeRA(40, base=base),
    "DVoRA": lambda base: DoRA(VeRA(40, base=base)),
    "left": lambda base: SharedLoRA(3, 6, base=base),
    "right": lambda base: SharedLoRA(3, 6, base=base, side="right"),
}
every_adapter = pytest.mark.parametrize("make", ADAPTERS.values(), ids=ADAPTERS.keys())


def made(make, row: Row, dtype: torch.dtype) -> Factorization:
    return make(Made(row, dtype)).decompose(structured(dtype))


@every_base
@every_adapter
class TestOverEveryBase:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["single", "bfloat16"])
    def test_step_0_equals_the_base_bit_for_bit(self, make, row, dtype):
        # torch multiplies in another order where a factor requires a gradient.
        form, base = made(make, row, dtype).eval(), row.form(dtype).eval().requires_grad_(False)
        x, image = random(5, INNER, dtype=dtype), random(2, 4, 6, 5, dtype=dtype)
        assert torch.equal(form(x), base(x))
        assert torch.equal(form.to_dense(), base.to_dense())
        three = Convolve((3, 3), padding=(1, 1), view="channel")
        assert torch.equal(form(image, three), base(image, three))

    def test_training_changes_what_is_trained_and_lowers_the_loss(self, make, row):
        form = made(make, row, torch.float64).train()
        before = {name: tensor.clone() for name, tensor in form.state_dict().items()}
        trained = {name for name, p in form.named_parameters() if p.requires_grad}
        x, target = random(50, INNER), random(50, OUT, seed=1)
        optimizer = torch.optim.SGD(form.parameters(), lr=1e-5, momentum=0.5, weight_decay=0.1)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = (form(x) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[2] < losses[1] < losses[0]
        got = {name for name, p in form.named_parameters() if p.grad is not None and p.grad.any()}
        after = form.state_dict()
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert got == trained == changed

    def test_merged_equals_unmerged(self, make, row):
        form = made(make, row, torch.float64)
        with torch.no_grad():
            for parameter in form.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * random(*parameter.shape, 1).view_as(parameter)
        x = random(5, INNER)
        torch.testing.assert_close(merge(form)(x), form.eval()(x))
        assert not torch.allclose(form(x), row.form().eval()(x))


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 16), nn.Linear(16, 3)
        )


OF_MODELS = ADAPTERS | {"own base": lambda base: SharedLoRA(3, 6, compress_base=True)}


@pytest.mark.parametrize("make", OF_MODELS.values(), ids=OF_MODELS.keys())
@pytest.mark.parametrize("base", [None, lowrank.Quantization(4)], ids=["dense", "quantized"])
@pytest.mark.parametrize("is_frozen", [False, True], ids=["trained", "frozen"])
def test_in_a_model_it_trains_merges_and_comes_back_from_a_file(make, base, is_frozen, tmp_path):
    model, x = network().requires_grad_(not is_frozen), random(2, 4, 4, 4, dtype=torch.float32)
    adapted = lowrank.compress(model, make(base)).model
    # What was not replaced trains as before, and of the replaced layers the adapters alone.
    biases = {name for name, p in adapted.named_parameters() if name.endswith("bias")}
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    own = sum(
        make(base).trained(tuple(layer.factorization.shape))
        for layer in adapted
        if hasattr(layer, "factorization")
    )
    assert trained & biases == (set() if is_frozen else biases)
    assert sum(adapted.get_parameter(name).numel() for name in trained - biases) == own
    adapted(x).square().sum().backward()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1e-3)
    optimizer.step()
    adapted.eval()
    after = adapted(x)
    lowrank.save(adapted, tmp_path / "adapted.safetensors")
    again = lowrank.load(tmp_path / "adapted.safetensors", model).eval()
    assert torch.equal(again(x), after)
    merged = copy.deepcopy(adapted)
    assert list(merge_adapters(merged)) == ["0", "2", "3"]
    assert not any(isinstance(m, Factorization) and adapters(m) for m in merged.modules())
    torch.testing.assert_close(merged(x), after, rtol=1e-4, atol=1e-5)


def test_every_kind_of_adapter_is_here():
    known = {type(row.decomposer) for row in ROWS.values()}
    assert {kind for kind in known if issubclass(kind, Adapter)} == {
        type(make(Uncompressed())) for make in ADAPTERS.values()
    }
