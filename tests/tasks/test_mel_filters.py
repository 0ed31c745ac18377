import math

import pytest
import torch

from lowrank.tasks.mel_filters import htk_corners, of_equal_area, slaney_corners, triangles

SCALES = {
    "htk": (htk_corners, lambda f: 2595 * math.log10(1 + f / 700)),
    "slaney": (
        slaney_corners,
        lambda f: 3 * f / 200 if f < 1000 else 15 + 27 * math.log(f / 1000) / math.log(6.4),
    ),
}
every_scale = pytest.mark.parametrize(("corners", "mel"), SCALES.values(), ids=SCALES.keys())


@every_scale
def test_corners_are_equally_far_on_the_scale(corners, mel):
    found = [mel(hertz) for hertz in corners(40, 100.0, 7000.0).tolist()]
    assert len(found) == 42
    assert found[0] == pytest.approx(mel(100)) and found[-1] == pytest.approx(mel(7000))
    steps = [after - before for before, after in zip(found, found[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * 41)


@every_scale
def test_neighbouring_triangles_share_each_frequency(corners, mel):
    places = corners(20, 0.0, 8000.0)
    filters = triangles(places, 1024, 16_000)
    assert filters.shape == (20, 513) and filters.min() == 0
    bins = torch.arange(513) * 16_000 / 1024
    inside = (bins >= places[1]) & (bins <= places[-2])
    torch.testing.assert_close(
        filters.sum(dim=0)[inside], torch.ones(int(inside.sum()), dtype=torch.float64)
    )


def test_a_triangle_by_hand():
    """Bins of 1 Hz: up from 2 to 4, down to 8."""
    corners = torch.tensor([2.0, 4.0, 8.0], dtype=torch.float64)
    expected = torch.tensor([[0, 0, 0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(triangles(corners, 20, 20), expected)
    torch.testing.assert_close(of_equal_area(expected, corners), expected / 3)


@pytest.mark.parametrize(
    "corners", [[1.0, 2.0], [0.0, 2.0, 2.0], [3.0, 2.0, 1.0], [0.0, 4.0, 10.5], [0.0, math.nan, 3]]
)
def test_corners_that_are_none(corners):
    with pytest.raises(ValueError, match="must be three or more that rise, in Hz and up to half"):
        triangles(torch.tensor(corners, dtype=torch.float64), 20, 20)
