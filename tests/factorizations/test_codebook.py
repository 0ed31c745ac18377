import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import tensor_bytes
from safetensors.torch import load, save

from lowrank.factorizations import Codebook, Layout, rebuild


def random_codebook(shape, bits, group_size, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layout = Layout(shape, bits, group_size)
    codes = torch.randint(2**bits, shape, generator=generator)
    centroids = torch.randn(layout.count, 2**bits, generator=generator, dtype=dtype)
    return codes, centroids, Codebook(layout, codes, centroids)


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 11)),
    bits=st.integers(1, 8),
    group_size=st.sampled_from(["channel", "tensor"]) | st.integers(1, 12),
)
def test_every_weight_is_the_centroid_of_its_code(shape, bits, group_size):
    codes, centroids, codebook = random_codebook(shape, bits, group_size)
    group = codebook.layout.join(
        torch.arange(codebook.layout.count)[:, None].expand(-1, codebook.layout.width)
    )
    assert torch.equal(codebook.to_dense(), centroids[group, codes])
    fresh = rebuild(codebook.config())
    fresh.load_state_dict(load(save(codebook.state_dict())))
    assert torch.equal(fresh.to_dense(), codebook.to_dense())
    assert fresh.config() == codebook.config()


def test_codes_are_packed_and_the_codebook_is_counted():
    *_, codebook = random_codebook((10, 7), 3, "tensor")
    assert tensor_bytes(codebook) == -(-70 * 3 // 8) + 8 * 4
    assert codebook.params == 70


def test_a_centroid_is_trained_by_all_weights_that_share_it():
    codes, _, codebook = random_codebook((4, 6), 2, "tensor", torch.float64)
    target = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (codebook.to_dense() * target).sum().backward()
    expected = torch.stack([target[codes == code].sum() for code in range(4)])
    torch.testing.assert_close(codebook.centroids.grad[0], expected, rtol=1e-12, atol=1e-12)
    assert [name for name, _ in codebook.named_parameters()] == ["centroids"]


def test_it_moves_and_copies():
    *_, codebook = random_codebook((4, 6), 2, 4)
    twin = copy.deepcopy(codebook)
    with torch.no_grad():
        codebook.centroids.zero_()
    assert twin.to_dense().count_nonzero() == 24
    half = twin.to(torch.bfloat16)
    assert half.to_dense().dtype == rebuild(half.config()).to_dense().dtype == torch.bfloat16


def test_it_prints_readably():
    *_, codebook = random_codebook((4, 6), 2, "tensor")
    assert repr(codebook) == "Codebook 6→4, 2 bits, per tensor"


def test_a_codebook_that_does_not_fit_is_refused():
    layout = Layout((3, 4), 2, "channel")
    with pytest.raises(ValueError, match=r"\(\(3, 4\), \(1, 4\)\) do not fit .*\(3, 4\)"):
        Codebook(layout, torch.zeros(3, 4), torch.ones(1, 4))
