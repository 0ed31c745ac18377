import math

import pytest
import torch

from lowrank.tasks.segmentation_scores import pixel_confusion, segmentation_scores

# Two classes, and 2 for pixels without one.
LABELS = torch.tensor([[0, 0, 0, 1], [1, 2, 2, 2]])
PREDICTED = torch.tensor([[0, 0, 1, 1], [2, 0, 0, 2]])


def test_counts_are_labels_by_predictions():
    counts = pixel_confusion(PREDICTED, LABELS.byte(), 3)
    assert counts.tolist() == [[2, 1, 0], [0, 1, 1], [2, 0, 1]]


def test_scores_by_hand():
    found = segmentation_scores(pixel_confusion(PREDICTED, LABELS, 3), ignored=2)
    # Class 0: 2 of 3 found, 2 more predicted where there is none; class 1: 1 of 2, 1 too many.
    assert found.mean_iou == pytest.approx((2 / 5 + 1 / 3) / 2)
    assert found.class_average == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.pixel_accuracy == pytest.approx(3 / 5)


def test_pixels_without_a_class_left_out():
    counts = pixel_confusion(PREDICTED, LABELS, 3)
    found = segmentation_scores(counts, ignored=2, everywhere=False)
    assert found.mean_iou == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found[1:] == segmentation_scores(counts, ignored=2)[1:]


def test_without_an_ignored_label_every_class_counts():
    found = segmentation_scores(pixel_confusion(PREDICTED, LABELS, 3))
    assert found.mean_iou == pytest.approx((2 / 5 + 1 / 3 + 1 / 4) / 3)
    assert found.pixel_accuracy == pytest.approx(4 / 8)


def test_a_class_that_does_not_occur_is_in_no_mean():
    more = segmentation_scores(pixel_confusion(PREDICTED, LABELS, 5))
    assert more == segmentation_scores(pixel_confusion(PREDICTED, LABELS, 3))
    assert all(math.isnan(score) for score in segmentation_scores(torch.zeros(3, 3)))


def test_what_cannot_be_counted():
    with pytest.raises(ValueError, match="must be of the same pixels"):
        pixel_confusion(PREDICTED[0], LABELS, 3)
    with pytest.raises(ValueError, match=r"labels lie in 0\.\.2, and there are 2 classes"):
        pixel_confusion(PREDICTED % 2, LABELS, 2)
    with pytest.raises(ValueError, match=r"predicted lie in -1\.\.-1"):
        pixel_confusion(torch.tensor([-1]), torch.tensor([0]), 3)
