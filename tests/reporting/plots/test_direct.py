"""Direct labels: nearest to the ends of their lines without an overlap."""

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.optimize import LinearConstraint, minimize

from lowrank.reporting.plots.direct import add_labels, apart, broken, end_of, spread
from lowrank.reporting.plots.text import INCH, width

pairs_of_place_and_height = st.tuples(st.floats(-100, 100), st.floats(1, 20))
heights = st.lists(pairs_of_place_and_height, min_size=1, max_size=12).map(sorted)


@given(heights, st.floats(0, 50))
def test_intervals_do_not_overlap_and_stay_within_their_bounds(pairs, room):
    wanted, sizes = map(np.array, zip(*pairs, strict=True))
    low, high = -50.0, -50.0 + sizes.sum() + room
    places = apart(wanted, sizes, low, high)
    gaps = np.diff(places) - (sizes[1:] + sizes[:-1]) / 2
    assert (gaps >= -1e-9).all()
    assert places[0] - sizes[0] / 2 >= low - 1e-9
    assert places[-1] + sizes[-1] / 2 <= high + 1e-9


@given(heights)
def test_intervals_that_do_not_overlap_stay_where_they_are(pairs):
    _, sizes = map(np.array, zip(*pairs, strict=True))
    wanted = np.cumsum(2 * sizes) - sizes
    assert apart(wanted, sizes, -1e3, 1e3) == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_places_are_nearer(seed):
    """A general solver of quadratic programs finds none."""
    random = np.random.default_rng(seed)
    wanted, sizes = np.sort(random.normal(0, 3, 6)), random.uniform(0.5, 2, 6)
    low, high = -5.0, -5.0 + sizes.sum() + 1
    places = apart(wanted, sizes, low, high)
    rows = np.eye(6)[1:] - np.eye(6)[:-1]
    edges = np.vstack([rows, np.eye(6)[:1], -np.eye(6)[-1:]])
    least = [*(sizes[1:] + sizes[:-1]) / 2, low + sizes[0] / 2, -(high - sizes[-1] / 2)]
    found = minimize(
        lambda x: ((x - wanted) ** 2).sum(),
        np.linspace(low, high, 6),
        constraints=LinearConstraint(edges, least, np.inf),
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    assert places == pytest.approx(found.x, abs=1e-4)


def axes_with(*ends):
    figure = Figure(figsize=(3, 2), layout="constrained")
    axes = figure.subplots()
    for index, end in enumerate(ends):
        axes.plot([0, 1], [0.5, end], label=f"line_{index}")
    axes.set_ylim(0, 1)
    return figure, axes


def test_labels_stand_beside_the_axes_in_the_order_of_the_ends_and_apart():
    figure, axes = axes_with(0.9, 0.2, 0.21, 0.2, 0.85)
    labels = add_labels(axes, 1.0, 7)
    figure.draw_without_rendering()
    spread(labels)
    boxes = {one.text.get_text(): one.text.get_window_extent() for one in labels}
    assert sorted(boxes, key=lambda name: boxes[name].y0)[2:] == ["line_2", "line_4", "line_0"]
    for name, box in boxes.items():
        assert box.x0 > axes.bbox.x1 and box.x1 <= figure.bbox.x1
        assert not [one for one in boxes if one != name and boxes[one].overlaps(box)]
    for one in labels:
        ends = one.leader.get_transform().transform(one.leader.get_xydata())
        assert tuple(ends[0]) == pytest.approx(end_of(one.line))
        box = one.text.get_window_extent()
        assert box.y0 < ends[-1][1] < box.y1


@pytest.mark.parametrize(
    ("end", "place"), [(0.75, (1.0, 0.75)), (1.5, (0.5, 1.0)), (-0.5, (0.5, 0))]
)
def test_the_end_of_a_line_is_where_it_leaves_the_axes(end, place):
    figure, axes = axes_with(end)
    axes.set_xlim(0, 1)
    figure.draw_without_rendering()
    at = axes.transData.transform(place)
    assert end_of(axes.get_lines()[0]) == pytest.approx(tuple(at), abs=1)


def test_a_line_of_which_nothing_is_seen_has_no_label():
    _, axes = axes_with(0.5)
    axes.set_ylim(2, 3)
    assert end_of(axes.get_lines()[0]) is None and not add_labels(axes, 1.0, 7)


@given(st.text("ab_+ il", min_size=1, max_size=80).filter(str.strip), st.floats(0.4, 3))
def test_a_broken_name_is_as_narrow_as_asked_and_loses_nothing_that_fits(name, inches):
    with matplotlib.rc_context({"text.parse_math": False}):
        lines = broken(name, inches, 7).split("\n")
        assert len(lines) <= 3
        assert all(width(line, 7) <= inches * INCH + 1e-6 for line in lines)
        if "…" not in "".join(lines):
            assert "".join(lines).replace(" ", "") == name.replace(" ", "")
