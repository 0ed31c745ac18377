import math

import pytest
import torch

from lowrank.tasks.boxes import Boxes, cell_boxes, detections, overlaps, suppressed


def maps(objectness, numbers, probabilities, height=2, width=3):
    """Maps of a grid in which every cell says the same."""
    said = torch.tensor([objectness, *numbers, *probabilities], dtype=torch.float64)
    return said[None, :, None, None].expand(1, -1, height, width).clone()


def boxes(*rows):
    """Boxes of rows: corners, score, class."""
    corners, scores, classes = zip(*rows, strict=True)
    return Boxes(
        torch.tensor(corners, dtype=torch.float64), torch.tensor(scores), torch.tensor(classes)
    )


def test_the_box_of_a_cell_is_that_of_the_formula():
    found = cell_boxes(maps(0.5, [0.3, -0.2, 0.1, -1.0], [0.1, 0.7, 0.2]))
    assert found.corners.shape == (1, 6, 4) and (found.classes == 1).all()
    torch.testing.assert_close(
        found.scores, torch.full((1, 6), 0.5**0.6 * 0.7**0.4, dtype=torch.float64)
    )
    # The cell in row 1, column 2 of two rows and three columns is the last one.
    x, y = (math.tanh(0.3) + 2) / 3, (math.tanh(-0.2) + 1) / 2
    wide, high = 1 / (1 + math.exp(-0.1)), 1 / (1 + math.exp(1.0))
    expected = [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2]
    torch.testing.assert_close(found.corners[0, 5], torch.tensor(expected, dtype=torch.float64))


def test_only_boxes_above_the_threshold_are_found():
    given = maps(0.5, [0.0, 0.0, -5.0, -5.0], [1.0, 0.0])
    given[0, 0, 1, 1] = 0.9
    score = 0.5**0.6
    assert len(detections(given, threshold=score - 1e-9)[0].scores) == 6
    [found] = detections(given, threshold=score + 1e-9)
    assert found.classes.tolist() == [0]
    torch.testing.assert_close(found.scores, torch.tensor([0.9**0.6], dtype=torch.float64))
    [none] = detections(given, threshold=1.0)
    assert none.corners.shape == (0, 4)


def test_each_image_has_its_own_boxes():
    given = torch.cat([maps(0.5, [0.0] * 4, [1.0, 0.0]), maps(0.0, [0.0] * 4, [0.0, 1.0])])
    first, second = detections(given, overlap=1.0)
    assert (len(first.scores), len(second.scores)) == (6, 0)


def test_intersection_over_union_by_hand():
    first = torch.tensor([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    second = torch.tensor([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]])
    expected = torch.tensor([[1 / 7, 1.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(overlaps(first, second), expected)


def test_a_box_that_is_left_out_leaves_out_no_other():
    """Each overlaps its neighbour by a half; the first leaves out the second, not the third."""
    chain = boxes(([0, 0, 3, 1], 0.9, 0), ([1, 0, 4, 1], 0.8, 0), ([2, 0, 5, 1], 0.7, 0))
    assert suppressed(chain, 0.45).scores.tolist() == pytest.approx([0.9, 0.7])
    assert len(suppressed(chain, 0.5).scores) == 3  # Only what overlaps by more.


def test_boxes_of_other_classes_stay():
    same = [0, 0, 1, 1]
    found = suppressed(boxes((same, 0.4, 1), (same, 0.6, 0), (same, 0.5, 1)), 0.45)
    assert found.scores.tolist() == pytest.approx([0.6, 0.5])
    assert found.classes.tolist() == [0, 1]


def test_it_is_the_greedy_rule_on_many_boxes():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(200, 2, generator=generator)
    corners = torch.cat([low, low + 0.3 * torch.rand(200, 2, generator=generator)], dim=1)
    scores, classes = torch.rand(200, generator=generator), torch.arange(200) % 3
    kept = []
    for place in scores.argsort(descending=True).tolist():
        rivals = [one for one in kept if classes[one] == classes[place]]
        if all(overlaps(corners[[one]], corners[[place]]) <= 0.3 for one in rivals):
            kept.append(place)
    found = suppressed(Boxes(corners, scores, classes), 0.3)
    assert 20 < len(kept) < 190
    assert torch.equal(found.corners, corners[kept]) and torch.equal(found.classes, classes[kept])


@pytest.mark.parametrize("shape", [(1, 5, 2, 2), (85, 22, 22)])
def test_maps_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"must be \(batch, 5 \+ classes, height, width\)"):
        detections(torch.zeros(shape))
