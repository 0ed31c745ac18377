import pytest
import torch

from lowrank.tasks.image_inputs import bgr_inputs, resized


def pixels(*values):
    return torch.tensor(values, dtype=torch.uint8)


def test_channels_change_places_and_are_scaled_by_their_own_constants():
    red_green_blue = pixels(255, 51, 0).view(1, 3, 1, 1)
    assert bgr_inputs(red_green_blue).flatten().tolist() == pytest.approx([0, 0.2, 1])
    found = bgr_inputs(red_green_blue, mean=[10, 1, 55], std=[2, 5, 4])
    expected = [-10 / 2 / 255, 50 / 5 / 255, 200 / 4 / 255]
    assert found.flatten().tolist() == pytest.approx(expected)
    assert found.dtype == torch.float32


def test_an_image_of_twice_the_size_has_its_pixels_centres_at_halves():
    found = resized(pixels(0, 100).view(1, 1, 1, 2), 1, 4)
    assert found.flatten().tolist() == [0, 25, 75, 100] and found.dtype == torch.uint8


def test_an_image_that_becomes_smaller_is_not_smoothed():
    """Of four pixels to one only the two in the middle count."""
    found = resized(pixels(200, 10, 21, 200).view(1, 1, 1, 4), 1, 1)
    assert found.flatten().tolist() == [16]  # 15.5 to the even one.


@pytest.mark.parametrize("given", [torch.zeros(1, 3, 4, 4), torch.zeros(3, 4, 4).byte()])
def test_what_are_no_pixels(given):
    for act in (lambda: resized(given, 2, 2), lambda: bgr_inputs(given)):
        with pytest.raises(ValueError, match="pixels must be uint8 of shape"):
            act()


def test_channels_without_a_constant():
    for given, mean in ((torch.zeros(1, 1, 4, 4), [0, 0, 0]), (torch.zeros(1, 3, 4, 4), [0, 0])):
        with pytest.raises(ValueError, match="must be of three channels"):
            bgr_inputs(given.byte(), mean)
