"""Several tasks over one base in memory."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import (
    DoRA,
    LoRA,
    LoRAXS,
    Quantization,
    SharedLoRA,
    Uncompressed,
    VeRA,
)
from lowrank.files.digest import tensors_hash
from lowrank.measure import nbytes, trainable_bytes
from lowrank.recovery import TaskBank
from lowrank.recovery.fine_tune import freeze_outside_factorizations
from lowrank.recovery.task_parts import fingerprints, sharing

X = torch.randn(6, 12, generator=torch.Generator().manual_seed(3))
TASKS = ("rotated", "inverted", "noisy")


class Normalised(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm, self.head = nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.first(x))))


class Tied(nn.Module):
    """Its two layers have one weight."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.head = nn.Linear(12, 12), nn.Linear(12, 12)
        self.head.weight = self.first.weight

    def forward(self, x):
        return self.head(torch.relu(self.first(x)))


LORA = LoRA(rank=2, alpha=4)


def adapted(
    base=None, outside=False, network: type[nn.Module] = Normalised, seed=0, by: Any = LORA
) -> Any:
    model = compress(network(seed).eval(), replace(by, base=base) if base else by).model
    if not outside:
        freeze_outside_factorizations(model)
    return model


def biases(seed=0):
    """Of a whole model the biases alone, as in BitFit."""
    model = Normalised(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return model


MODELS: dict[str, Callable[..., nn.Module]] = {
    "adapters": adapted,
    "adapters over codes": lambda **given: adapted(Quantization(4), **given),
    "adapters and the rest": lambda **given: adapted(outside=True, **given),
    "adapters of tied layers": lambda **given: adapted(network=Tied, **given),
    "magnitudes": lambda **given: adapted(by=DoRA(LORA), **given),
    "cores": lambda **given: adapted(by=LoRAXS(rank=2, alpha=4), **given),
    "scales of random factors": lambda **given: adapted(by=VeRA(rank=8), **given),
    "a factor": lambda **given: adapted(by=SharedLoRA(rank=2, alpha=4), **given),
    "a factor that the base has": lambda **given: adapted(
        by=SharedLoRA(rank=3, alpha=4, compress_base=True), **given
    ),
    "biases": biases,
    "everything": Normalised,
    "everything, tied": Tied,
    "everything, in factorizations": lambda **given: (
        compress(Normalised(**given), Uncompressed()).model
    ),
}


def trained(model, seed):
    """A copy of the model after three steps, and its outputs."""
    model = copy.deepcopy(model).train()
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    for _ in range(3):
        optimizer.zero_grad()
        model(X + torch.randn(6, 12)).square().sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def filled(kind):
    model = MODELS[kind]().eval()
    models = {task: trained(model, seed) for seed, task in enumerate(TASKS)}
    bank = TaskBank(model)
    for task, one in models.items():
        bank.add(task, one)
    return bank, models


@pytest.mark.parametrize("kind", MODELS)
def test_each_task_runs_as_the_model_that_was_trained(kind):
    bank, models = filled(kind)
    assert bank.tasks == TASKS and bank.in_use is None
    with torch.no_grad():  # So that leaves keep their matrices.
        expected = {task: model(X) for task, model in models.items()}
        assert not torch.equal(expected["rotated"], expected["noisy"])
        for task in (*TASKS, *reversed(TASKS)):
            bank.use(task)
            assert bank.in_use == task
            assert torch.equal(bank.model(X), expected[task])
    assert {n for n, p in bank.model.named_parameters() if p.requires_grad} == {
        n for n, p in models["rotated"].named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("kind", MODELS)
def test_switching_copies_nothing(kind):
    bank, _ = filled(kind)
    bank.use("rotated")
    seen = {task: addresses(bank, task) for task in (*TASKS, "rotated")}
    own = {name for name in seen["noisy"] if seen["noisy"][name] != seen["rotated"][name]}
    parameters = bank.model.named_parameters(remove_duplicate=False)
    trained = {name for name, parameter in parameters if parameter.requires_grad}
    tracked = {n for n in seen["noisy"] if "running" in n or "num_batches" in n}
    assert own == trained | tracked
    again = addresses(bank, "noisy")
    assert again == seen["noisy"]


def addresses(bank, task):
    bank.use(task)
    return {name: tensor.data_ptr() for name, tensor in bank.model.state_dict().items()}


@pytest.mark.parametrize("kind", MODELS)
def test_the_base_counts_once_and_each_task_its_own(kind):
    bank, models = filled(kind)
    each = [sharing(model, fingerprints(MODELS[kind]().eval())) for model in models.values()]
    assert len({one["shared_hash"] for one in each}) == 1
    assert {one["shared_bytes"] for one in each} == {bank.shared_bytes}
    for one, model in zip(each, models.values(), strict=True):
        assert one["shared_bytes"] + one["own_bytes"] == nbytes(model)
        assert one["own_bytes"] >= trainable_bytes(model)
    assert bank.bytes() == bank.bytes(3) == bank.shared_bytes + sum(o["own_bytes"] for o in each)
    own = bank.bytes(2) - bank.bytes(1)
    assert bank.bytes(21) - bank.bytes(1) == pytest.approx(20 * own, abs=20)
    if kind.startswith("everything"):
        assert bank.shared_bytes == 0
    else:
        assert bank.shared_bytes > 0


@pytest.mark.parametrize("kind", MODELS)
def test_a_saved_task_comes_back_into_another_bank_of_its_base(kind, tmp_path):
    bank, models = filled(kind)
    bank.use("inverted")
    for task in TASKS:
        bank.save(task, tmp_path / f"{task}.safetensors")
    other = TaskBank(MODELS[kind]().eval())
    for task in reversed(TASKS):
        other.load(task, tmp_path / f"{task}.safetensors")
        with torch.no_grad():
            other.use(task)
            assert torch.equal(other.model(X), models[task](X))
    size = (tmp_path / "noisy.safetensors").stat().st_size
    header = int.from_bytes((tmp_path / "noisy.safetensors").read_bytes()[:8], "little")
    own = sharing(models["noisy"], fingerprints(MODELS[kind]().eval()))["own_bytes"]
    assert size - 8 - header == own


def test_a_task_of_another_base_is_refused(tmp_path):
    bank, _ = filled("adapters")
    bank.save("noisy", tmp_path / "noisy.safetensors")
    other = TaskBank(adapted(seed=1).eval())
    with pytest.raises(ValueError, match="noisy.safetensors: .*another base than the bank's"):
        other.load("noisy", tmp_path / "noisy.safetensors")
    with pytest.raises(ValueError, match="'noisy' was trained on another base: .*first.bias"):
        other.add("noisy", trained(adapted(), 0))
    assert other.tasks == ()


def test_a_base_that_has_moved_is_seen_in_its_hash():
    model = Normalised()
    before = tensors_hash(dict(model.state_dict()))
    assert tensors_hash(dict(reversed(model.state_dict().items()))) == before
    with torch.no_grad():
        model.head.bias[0] += 1e-6
    assert tensors_hash(dict(model.state_dict())) != before


def test_the_statistics_of_the_base_are_not_those_of_a_task(tmp_path):
    """A task that left them alone has those of the base, whatever ran before."""
    model = adapted().eval()
    still = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in still.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    bank = TaskBank(model)
    bank.add("moved", trained(model, 0))
    bank.use("moved")
    bank.add("still", still)
    bank.save("still", tmp_path / "still.safetensors")
    bank.use("still")
    assert torch.equal(bank.model(X), still(X))
    other = TaskBank(adapted().eval())
    other.load("still", tmp_path / "still.safetensors")
    bank.use("moved")
    bank.load("again", tmp_path / "still.safetensors")
    for one, name in ((other, "still"), (bank, "again")):
        one.use(name)
        assert torch.equal(one.model(X), still(X))


def test_merging_and_back():
    bank, models = filled("adapters over codes")
    bank.use("noisy")
    before = bank.model(X)
    bank.merge()
    torch.testing.assert_close(bank.model(X), before, rtol=1e-5, atol=1e-5)
    for act in (bank.merge, lambda: bank.use("rotated"), lambda: bank.save("noisy", "x")):
        with pytest.raises(ValueError, match="the model is merged: call `unmerge` first"):
            act()
    bank.unmerge()
    assert torch.equal(bank.model(X), before)
    with pytest.raises(ValueError, match="is not merged"):
        bank.unmerge()
    bank.use("rotated")
    assert torch.equal(bank.model(X), models["rotated"](X))


def test_what_a_task_in_use_learns_further_stays_with_it():
    bank, _ = filled("adapters")
    bank.use("noisy")
    with torch.no_grad():
        for parameter in bank.model.parameters():
            if parameter.requires_grad:
                parameter.mul_(2)
    changed = bank.model(X)
    bank.use("rotated")
    assert not torch.equal(bank.model(X), changed)
    bank.use("noisy")
    assert torch.equal(bank.model(X), changed)


def test_what_cannot_be_in_a_bank(tmp_path):
    bank, models = filled("adapters")
    with pytest.raises(ValueError, match="there is a task 'noisy' in the bank already"):
        bank.add("noisy", models["noisy"])
    with pytest.raises(ValueError, match="task='' must be a text"):
        bank.add("", models["noisy"])
    with pytest.raises(ValueError, match="no task 'Noisy' in the bank: there are rotated, inver"):
        bank.use("Noisy")
    with pytest.raises(ValueError, match="trains other tensors .*first.bias"):
        bank.add("more", trained(adapted(outside=True), 0))
    scaled = compress(Normalised().eval(), LoRA(rank=2, alpha=5)).model
    freeze_outside_factorizations(scaled)
    with pytest.raises(ValueError, match="other factorizations than those of the bank's model"):
        bank.add("scaled", scaled)
    narrow = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="another model than the bank's: .*'head.bias'"):
        TaskBank(Normalised()).add("narrow", narrow)
    with pytest.raises(ValueError, match="nothing in it requires a gradient"):
        TaskBank(Normalised()).add("frozen", Normalised().requires_grad_(False))
    with pytest.raises(ValueError, match="the bank is empty"):
        TaskBank(narrow).bytes()
    with pytest.raises(ValueError, match="tasks=0 must be at least 1"):
        bank.bytes(0)
    codes = adapted(Quantization(4)).eval()
    other = copy.deepcopy(codes)
    other.first.factorization.terms[0].scale.mul_(2)
    with pytest.raises(ValueError, match="scale.* are stored in a factorization, and are not"):
        TaskBank(codes).add("scales", other)


def test_files_of_others(tmp_path):
    from lowrank import save

    bank, models = filled("adapters")
    whole, part = tmp_path / "model.safetensors", tmp_path / "noisy.safetensors"
    save(models["noisy"], whole)
    bank.save("noisy", part)
    with pytest.raises(ValueError, match="it holds no task of a base saved by TaskBank.save"):
        bank.load("other", whole)
    with pytest.raises(FileNotFoundError):
        bank.load("other", tmp_path / "nothing")
    with pytest.raises(ValueError, match="noisy.safetensors: .*other factorizations"):
        TaskBank(adapted(Quantization(4)).eval()).load("other", part)
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        bank.load("other", part)
    assert bank.tasks == TASKS
