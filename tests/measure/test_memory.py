import pytest
import torch
from torch import nn

from lowrank.factorizations import Layout, Quantized
from lowrank.measure import peak_memory
from lowrank.measure.memory import StepMemory
from lowrank.model.factorized import FactorizedLinear


def quantized() -> Quantized:
    """8 × 8 codes of one byte and a float32 scale for each row."""
    codes = torch.ones(8, 8, dtype=torch.uint8)
    return Quantized(Layout((8, 8), bits=8, group_size=8), codes, torch.ones(8))


def test_one_linear_layer_is_its_weights_input_and_output():
    layer = nn.Linear(10, 7)
    assert peak_memory(layer, (torch.zeros(3, 10),)) == 4 * (70 + 7 + 30 + 21)


def test_activations_are_freed_before_the_peak_of_later_ones():
    model = nn.Sequential(nn.Linear(10, 100), nn.Linear(100, 10), nn.Linear(10, 20))
    weights = 4 * (1100 + 1010 + 220)
    # At the worst moment the wide activation and the output of the second layer are alive.
    assert peak_memory(model, (torch.zeros(1, 10),)) == weights + 4 * (10 + 100 + 10)


def test_in_place_operations_and_views_take_no_memory():
    model = nn.Sequential(nn.Linear(10, 7), nn.ReLU(inplace=True), nn.Flatten())
    assert peak_memory(model, (torch.zeros(3, 10),)) == 4 * (77 + 30 + 21)


def test_buffers_count_and_a_shared_weight_counts_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    model.register_buffer("statistics", torch.zeros(100))
    assert peak_memory(model, (torch.zeros(1, 4),)) == 4 * (16 + 100 + 4 + 4 + 4)


def test_dense_copies_of_packed_leaves_count_in_every_pass():
    model = nn.Sequential(*(FactorizedLinear(quantized(), None) for _ in range(2)))
    # Both copies are alive all the time, not only after their layer first ran.
    expected = 2 * (64 + 4 * 8 + 4 * 64) + 4 * (8 + 8 + 8)
    assert peak_memory(model, (torch.zeros(1, 8),)) == expected
    assert peak_memory(model, (torch.zeros(1, 8),)) == expected


def test_a_plain_attribute_that_is_read_counts():
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.zeros(50)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.shift

    assert peak_memory(Shift(), (torch.zeros(50),)) == 4 * 150


def test_the_same_as_torchs_own_tracker():
    from torch.distributed._tools.mem_tracker import MemTracker

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    ).eval()
    example = torch.zeros(2, 3, 8, 8)
    tracker = MemTracker()
    tracker.track_external(model, example)
    with torch.no_grad(), tracker:
        model(example)
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    assert peak_memory(model, (example,)) == snapshot["Total"]


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    peak_memory(model, (torch.ones(3, 4),))
    assert all(m.training for m in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_example_is_a_tuple():
    with pytest.raises(ValueError, match="must be a non-empty tuple of input tensors.* got Tensor"):
        peak_memory(nn.Linear(4, 4), torch.zeros(2, 4))  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_other_models_on_the_device_do_not_count():
    layer = nn.Linear(1024, 1024, bias=False).cuda()
    example = (torch.zeros(512, 1024, device="cuda"),)
    alone = peak_memory(layer, example)
    other = torch.zeros(1 << 20, device="cuda")
    assert peak_memory(layer, example) == alone >= 4 * (1 << 20) + 2 * 4 * (1 << 19)
    del other


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 10)),
    )


OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "AdamW": torch.optim.AdamW,
}


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_takes_what_torchs_own_tracker_says(optimizer, batch):
    from torch.distributed._tools.mem_tracker import MemTracker

    x, y = torch.zeros(batch, 3, 8, 8), torch.zeros(batch, dtype=torch.long)

    def started():
        model = convolutional()
        made = OPTIMIZERS[optimizer](model.parameters())

        def step() -> None:
            made.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            made.step()

        step()
        return model, made, step

    model, made, step = started()
    kept = [value for state in made.state.values() for value in state.values()]
    resident = [*model.parameters(), *model.buffers(), *kept]
    memory = StepMemory(torch.device("cpu"))
    with memory.following(1, lambda: [t for t in resident if isinstance(t, torch.Tensor)]):
        step()
    model, made, step = started()
    tracker = MemTracker()
    tracker.track_external(model, made, x, y)
    with tracker:
        step()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    assert memory.peak == snapshot["Total"]


def test_the_largest_of_the_first_two_steps_counts_and_later_ones_are_not_followed():
    memory, weight = StepMemory(torch.device("cpu")), torch.zeros(100)
    assert memory.peak is None
    for step, size in enumerate((1000, 10, 5000)):
        with memory.following(step, lambda: [weight]):
            torch.zeros(size)
    assert memory.peak == 4 * 1100
