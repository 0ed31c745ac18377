import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowrank.factorizations import BlockGrid, Dense, Layout, Product, Quantized, Sparse, Sum
from lowrank.measure import layer_macs, macs
from lowrank.measure.macs import _FORMULAS
from lowrank.model.factorized import FactorizedConvolution, FactorizedEmbedding, FactorizedLinear


def sparse(out: int, columns: int, nonzeros: int) -> Sparse:
    kept = torch.arange(out * columns).view(out, columns) < nonzeros
    return Sparse.from_dense(torch.ones(out, columns), kept)


def dense(out: int, columns: int) -> Dense:
    return Dense(torch.ones(out, columns))


def low_rank(out: int, rank: int, columns: int) -> Product:
    return Product(dense(out, rank), dense(rank, columns))


def test_the_convention_is_one_mac_per_multiplication():
    assert macs(nn.Linear(64, 32), (torch.zeros(8, 64),)) == 16_384


@settings(max_examples=25)
@given(
    sizes=st.tuples(*[st.integers(1, 5)] * 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.integers(1, 3),
)
def test_convolution_by_its_formula(sizes, kernel, stride, padding, dilation, groups):
    out, channels, extra = sizes
    layer = nn.Conv2d(
        groups * channels, groups * out, kernel, stride, padding, dilation=dilation, groups=groups
    )
    x = torch.zeros(1, groups * channels, 5 + extra, 9)
    height, width = layer(x).shape[2:]
    by_hand = height * width * groups * out * channels * kernel[0] * kernel[1]
    assert macs(layer, (x,)) == by_hand


def test_low_rank_linear_is_two_thin_products():
    layer = FactorizedLinear(low_rank(32, 3, 64), nn.Parameter(torch.zeros(32)))
    assert macs(layer, (torch.zeros(1, 64),)) == 3 * (32 + 64)
    assert macs(layer, (torch.zeros(1, 10, 64),)) == 10 * 3 * (32 + 64)


@pytest.mark.parametrize(
    ("view", "shape", "by_hand"),
    [
        # 3×3 with stride 2 to r channels on 4×5, then 1×1.
        ("channel", (6, 4 * 9), 20 * 2 * 36 + 20 * 2 * 6),
        # 3×1 with stride (2, 1) to r channels on 4×9, then 1×3 with stride (1, 2) on 4×5.
        ("spatial", (6 * 3, 4 * 3), 36 * 2 * 12 + 20 * 2 * 18),
    ],
)
def test_low_rank_convolution_is_two_thin_convolutions(view, shape, by_hand):
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    compact = FactorizedConvolution(layer, low_rank(shape[0], 2, shape[1]), view)
    assert macs(layer, (torch.zeros(1, 4, 8, 9),)) == 20 * 6 * 36
    assert macs(compact, (torch.zeros(1, 4, 8, 9),)) == by_hand


def test_zeros_of_a_sparse_leaf_do_not_count():
    layer = FactorizedLinear(sparse(10, 12, 17), None)
    assert macs(layer, (torch.zeros(3, 12),)) == 3 * 17
    kernel = sparse(6, 36, 50)
    conv = FactorizedConvolution(nn.Conv2d(4, 6, 3, padding=1), kernel, "channel")
    assert macs(conv, (torch.zeros(1, 4, 8, 9),)) == 72 * 50


def test_zeros_count_by_leaf_and_at_every_call():
    branch = FactorizedLinear(Sum(sparse(12, 12, 7), low_rank(12, 2, 12)), None)
    model = nn.Sequential(branch, nn.ReLU(), branch)
    assert macs(model, (torch.zeros(1, 12),)) == 2 * (7 + 2 * 24)


def test_quantized_weights_are_multiplied_like_dense_ones():
    layout = Layout((10, 12), bits=3, group_size=12)
    leaf = Quantized(layout, torch.ones(10, 12, dtype=torch.uint8), torch.ones(10))
    assert macs(FactorizedLinear(leaf, None), (torch.zeros(1, 12),)) == 120


def test_making_the_dense_copy_of_a_leaf_does_not_count():
    kept = torch.arange(120).view(10, 12) < 40
    values = low_rank(1, 2, 40)  # 82 numbers for 40 positions.
    layer = FactorizedLinear(Sparse(BlockGrid((10, 12)), kept, values), None)
    counted = [macs(layer, (torch.zeros(1, 12),)) for _ in range(2)]
    assert counted == [40] * 2


def test_normalisation_activations_and_look_ups_count_zero():
    model = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.ReLU())
    assert macs(model, (torch.zeros(1, 3, dtype=torch.int64),)) == 0
    model = nn.Sequential(nn.BatchNorm2d(3), nn.AvgPool2d(2))
    assert macs(model, (torch.zeros(1, 3, 4, 4),)) == 0


def test_a_low_rank_embedding_multiplies_the_rows_it_looks_up():
    table = FactorizedEmbedding(low_rank(50, 3, 8), None)
    assert macs(table, (torch.zeros(1, 5, dtype=torch.int64),)) == 5 * 3 * 8


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_counts_scores_and_mixing(dtype):
    x = torch.zeros(1, 4, 16, 8, dtype=dtype)
    assert macs(Attention(), (x,)) == 2 * 4 * 16 * 16 * 8


@pytest.mark.parametrize("frozen", [False, True])
def test_fused_attention_of_inference_is_counted_too(frozen):
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    layer.requires_grad_(not frozen)
    by_hand = 5 * 16 * 48 + 5 * 16 * 16 + 2 * 5 * 5 * 16 + 2 * 5 * 16 * 32
    assert torch.backends.mha.get_fastpath_enabled()
    assert macs(layer, (torch.zeros(1, 5, 16),)) == by_hand
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_layers(kind, gates, batch_first):
    layer = kind(6, 7, num_layers=2, bidirectional=True, batch_first=batch_first)
    steps, batch = 3, 2
    shape = (batch, steps, 6) if batch_first else (steps, batch, 6)
    by_hand = steps * batch * gates * 7 * (2 * (6 + 7) + 2 * (14 + 7))
    assert macs(layer, (torch.zeros(shape),)) == by_hand


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)


@pytest.mark.parametrize(
    ("function", "shapes", "by_hand"),
    [
        (torch.mv, [(3, 4), (4,)], 12),
        (torch.dot, [(4,), (4,)], 4),
        (torch.addmv, [(3,), (3, 4), (4,)], 12),
        (torch.matmul, [(2, 3, 4), (2, 4, 5)], 120),
    ],
)
def test_products_of_vectors_count(function, shapes, by_hand):
    assert macs(Function(function), tuple(torch.zeros(s) for s in shapes)) == by_hand


def test_an_operation_that_cannot_be_counted_is_an_error():
    with pytest.raises(ValueError, match="_cudnn_rnn cannot be counted, and zero would be wrong"):
        _FORMULAS[torch.ops.aten._cudnn_rnn]()


def test_layers_are_counted_by_name():
    pruned = FactorizedLinear(sparse(10, 8, 9), None)
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(pruned, nn.ReLU()), nn.Linear(10, 2))
    counted = layer_macs(model, (torch.zeros(1, 4),))
    assert set(counted) == {name for name, _ in model.named_modules()}
    assert counted["0"] == 32
    assert counted["1"] == counted["1.0"] == counted["1.0.factorization"] == 9
    assert counted["1.1"] == 0
    assert counted[""] == macs(model, (torch.zeros(1, 4),)) == 32 + 9 + 20


def test_a_layer_used_twice_counts_twice_under_each_of_its_names():
    layer = nn.Linear(4, 4)
    assert layer_macs(nn.Sequential(layer, layer), (torch.zeros(1, 4),)) == {
        "": 32,
        "0": 32,
        "1": 32,
    }


def test_a_layer_that_is_read_and_not_called_has_none():
    model = nn.MultiheadAttention(16, 4, batch_first=True)
    counted = layer_macs(model, (torch.zeros(1, 5, 16),) * 3)
    assert counted == {"": 5 * 16 * 48 + 5 * 16 * 16 + 2 * 5 * 5 * 16, "out_proj": 0}


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout())
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    macs(model, (torch.ones(3, 4),))
    assert [m.training for m in model.modules()] == [True, True, True, False]
    assert hooks(model) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_hooks_and_modes_are_restored_after_an_error():
    model = nn.Sequential(FactorizedLinear(sparse(3, 4, 2), None), nn.Linear(9, 9))
    with pytest.raises(ValueError, match="does not run on the example.*mat1 and mat2"):
        macs(model, (torch.zeros(1, 4),))
    assert hooks(model) == 0
    assert all(m.training for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("example", [torch.zeros(2, 4), [torch.zeros(2, 4)], ()])
def test_an_example_is_a_tuple(example):
    with pytest.raises(ValueError, match=r"non-empty tuple of input tensors.*\(inputs,\)"):
        macs(nn.Linear(4, 4), example)
