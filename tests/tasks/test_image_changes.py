from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank.tasks import Digits, Images, ImageSource, Inverted, Noisy, Permuted, Rotated

CHANGES = [Rotated, Inverted, Permuted, Noisy]


@dataclass(frozen=True)
class Random(ImageSource):
    """Random images that are brighter in the test part."""

    height: int = 6
    width: int = 6
    white: int = 100
    count: int = 40

    def read(self, part):
        generator = torch.Generator().manual_seed(self.height * self.width)
        shape = (self.count, 2, self.height, self.width)
        pixels = torch.randint(0, self.white, shape, generator=generator) + (part == "test")
        labels = torch.arange(self.count) % 3
        return Images(pixels.to(torch.uint8), labels, self.white, classes=3)


def changed(kind, source=None, part="train"):
    own = {Rotated: {"degrees": 30}, Noisy: {"std": 0.3}}.get(kind, {})
    return kind(source or Random(), **own).read(part)


@pytest.mark.parametrize("kind", CHANGES)
def test_only_the_pixels_change(kind):
    for part in ("train", "test"):
        before, after = Random().read(part), changed(kind, part=part)
        assert torch.equal(after.labels, before.labels)
        assert (after.white, after.classes) == (before.white, before.classes)
        assert after.pixels.dtype == torch.uint8 and after.pixels.shape == before.pixels.shape
        assert not torch.equal(after.pixels, before.pixels)
        assert int(after.pixels.max()) <= before.white
        assert torch.equal(changed(kind, part=part).pixels, after.pixels)


@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("size", [(6, 6), (7, 7)])
def test_a_quarter_turn_moves_pixels_exactly(turns, size):
    source = Random(*size)
    expected = torch.rot90(source.read("train").pixels, turns, dims=(2, 3))
    assert torch.equal(Rotated(source, 90 * turns).read("train").pixels, expected)


def test_a_half_turn_of_an_image_that_is_no_square_moves_pixels_exactly():
    source = Random(4, 9)
    expected = source.read("train").pixels.flip(2, 3)
    assert torch.equal(Rotated(source, 180).read("train").pixels, expected)


def test_an_image_that_is_no_square_is_not_sheared():
    """A disc stays a disc of its size."""

    @dataclass(frozen=True)
    class Disc(ImageSource):
        def read(self, part):
            y, x = torch.meshgrid(torch.arange(21) - 10, torch.arange(33) - 16, indexing="ij")
            disc = 200 * ((x**2 + y**2) <= 64)
            return Images(disc.to(torch.uint8)[None, None], torch.zeros(1, dtype=torch.int64))

    before = Disc().read("train").pixels.float()
    after = Rotated(Disc(), 50).read("train").pixels.float()
    assert float((after - before).abs().sum()) < 0.15 * float(before.sum())  # Its edge.
    assert float(after.sum()) == pytest.approx(float(before.sum()), rel=0.02)


def test_rotating_is_that_of_pillow_but_for_rounding():
    from PIL import Image

    before = Digits().read("test").pixels[:20]
    after = Rotated(Digits(), 37).read("test").pixels[:20]
    for one, other in zip(before, after, strict=True):
        image = Image.fromarray(one[0].float().numpy(), mode=None)
        turned = torch.tensor(np.asarray(image.rotate(37, Image.Resampling.BILINEAR)))
        inside = torch.ones(8, 8, dtype=torch.bool)
        inside[[0, -1]] = inside[:, [0, -1]] = False  # Of edges each takes its own half pixel.
        apart = (turned - other[0]).abs()[inside]
        assert float(apart.max()) <= 0.51


def test_inverting_twice_changes_nothing():
    assert torch.equal(
        Inverted(Inverted(Random())).read("train").pixels, Random().read("train").pixels
    )


@given(st.integers(0, 2**40))
def test_a_permutation_is_one_of_places_alike_for_all_images(seed):
    before = Random().read("train").pixels.flatten(2)
    after = Permuted(Random(), seed).read("train").pixels.flatten(2)
    assert torch.equal(before.sort().values, after.sort().values)
    # A source whose pixels say where they are says where they went.
    places = torch.arange(36, dtype=torch.uint8).expand(40, 2, 36).reshape(40, 2, 6, 6)

    @dataclass(frozen=True)
    class Places(ImageSource):
        def read(self, part):
            return Images(places, Random().read(part).labels)

    order = Permuted(Places(), seed).read("test").pixels[0, 0].flatten().long()
    assert torch.equal(after, before[..., order])


def test_noise_has_its_deviation_and_is_another_in_each_image_and_part():
    @dataclass(frozen=True)
    class Grey(ImageSource):
        def read(self, part):
            pixels = torch.full((300, 1, 10, 10), 128, dtype=torch.uint8)
            return Images(pixels, torch.zeros(300, dtype=torch.int64))

    train, test = (Noisy(Grey(), 0.1).read(part).pixels.float() for part in ("train", "test"))
    # Rounding adds a twelfth to the variance.
    assert float((train - 128).std()) == pytest.approx((25.5**2 + 1 / 12) ** 0.5, rel=0.02)
    assert abs(float((train - 128).mean())) < 0.7
    for other in (train.roll(1, 0), test, Noisy(Grey(), 0.1, 1).read("train").pixels.float()):
        pair = torch.stack([(train - 128).flatten(), (other - 128).flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.03


def test_changes_compose_and_are_named_by_what_they_do():
    both = Noisy(Inverted(Digits()), std=0.1)
    assert both.name == "digits-inverted-noisy"
    inner = Inverted(Digits()).read("test")
    assert float((both.read("test").pixels.float() - inner.pixels.float()).abs().mean()) < 2


def test_large_sets_are_changed_in_parts_as_the_whole(monkeypatch):
    whole = [changed(kind).pixels for kind in (Rotated, Noisy)]
    monkeypatch.setattr("lowrank.tasks.image_changes.CHUNK", 16)
    assert torch.equal(changed(Rotated).pixels, whole[0])
    assert changed(Noisy).pixels.shape == whole[1].shape


def test_what_cannot_be_inverted_is_refused():
    @dataclass(frozen=True)
    class Bright(ImageSource):
        def read(self, part):
            pixels = torch.full((2, 1, 2, 2), 20, dtype=torch.uint8)
            return Images(pixels, torch.zeros(2, dtype=torch.int64), white=16)

    with pytest.raises(ValueError, match="pixels up to 20 and white=16 cannot be inverted"):
        Inverted(Bright()).read("train")
