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


CODED = pytest.mark.parametrize("coding", ["huffman", "ans"])


def skewed(coding, dtype=torch.float32):
    """A codebook of which one code in two is 0, and the same with its codes coded."""
    codes, centroids, _ = random_codebook((40, 30), 4, "tensor", dtype)
    codes[::2] = 0
    plain = Codebook(Layout((40, 30), 4, "tensor"), codes, centroids)
    return codes, plain, plain.recoded(coding)


@CODED
def test_coded_codes_are_the_same_matrix_in_fewer_bytes(coding):
    codes, plain, coded = skewed(coding)
    assert torch.equal(coded.to_dense(), plain.to_dense())
    assert torch.equal(coded.current_codes().long(), codes)
    assert tensor_bytes(coded) < 0.8 * tensor_bytes(plain)
    assert repr(coded) == f"Codebook 30→40, 4 bits, per tensor, {coding}"
    fresh = rebuild(coded.config())
    fresh.load_state_dict(load(save(coded.state_dict())))
    assert torch.equal(fresh.to_dense(), plain.to_dense())
    assert set(fresh.state_dict()) == {"codes", "code_table", "centroids"}
    assert torch.equal(coded.recoded("fixed").state_dict()["codes"], plain.codes)


@CODED
def test_centroids_of_coded_codes_are_trained_as_others(coding):
    _, plain, coded = skewed(coding, torch.float64)
    target = torch.randn(40, 30, dtype=torch.float64)
    for form in (plain, coded):
        (form.to_dense() * target).sum().backward()
    assert torch.equal(coded.centroids.grad, plain.centroids.grad)


@CODED
def test_a_stream_written_anew_counts_at_once_and_a_wrong_one_is_refused(coding):
    codes, plain, coded = skewed(coding)
    coded.to_dense()
    other = Codebook(plain.layout, codes.flip(0), plain.centroids, coding)
    if len(other.codes) == len(coded.codes):  # Not every order takes as many bytes by ANS.
        coded.codes.copy_(other.codes)
        coded.code_table.copy_(other.code_table)
        assert torch.equal(coded.to_dense(), other.to_dense())
    coded.code_table.fill_(0x33)
    with pytest.raises(ValueError, match="no Huffman code|cannot be decoded"):
        coded.to_dense()
    with pytest.raises(ValueError, match="no Huffman code|cannot be decoded"):
        coded.check_stored()
