"""Nine cells in one picture, and perplexities on axes where they can be read."""

import made_records as records
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from lowrank.records import store
from lowrank.reporting import plots
from lowrank.reporting.plots.panel import MOST_TIMES_DENSE
from lowrank.reporting.plots.style import SHADES, norm_styles

BITS = "layers_bits_per_weight"


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return store.load(records.write_texts(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def nine(frame):
    return frame[frame["method"].isin(records.NINE)]


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines() if line.get_label()[0] != "_"}


def by_gid(axes, gid):
    return [artist for artist in axes.get_children() if artist.get_gid() == gid]


def legends(figure):
    """The entries of the legends above the axes, by their titles."""
    (axes,) = figure.axes
    found = [child for child in axes.get_children() if type(child).__name__ == "Legend"]
    return {
        legend.get_title().get_text(): [text.get_text() for text in legend.get_texts()]
        for legend in found
    }


def test_all_nine_cells_are_there_with_the_numbers_of_their_records(nine):
    (axes,) = plots.norm_figure(nine).axes
    drawn = {name.split(": ")[1]: line for name, line in lines(axes).items()}
    assert set(drawn) == set(records.NINE)
    for method, line in drawn.items():
        _, _, sizes, perplexities = records.CELLS[method]
        assert np.allclose(line.get_xdata(), list(sizes.values()))
        assert np.allclose(line.get_ydata(), perplexities)


def test_colour_says_the_family_and_dashes_and_marker_the_norm(nine):
    styles = norm_styles(nine)
    for name, style in styles.items():
        for other, its in styles.items():
            family, norm = records.CELLS[name][:2]
            its_family, its_norm = records.CELLS[other][:2]
            assert (style.colour == its.colour) == (family == its_family)
            assert (style.line == its.line) == (norm == its_norm)
            assert (style.marker == its.marker) == (norm == its_norm)


def test_methods_that_share_a_cell_have_markers_of_their_own(frame):
    styles = norm_styles(frame)
    looks = {(style.colour, style.marker, str(style.line)) for style in styles.values()}
    assert len(looks) == len(styles) == len(records.CELLS)
    assert styles["hqq"].line == styles["rtn"].line


def test_the_families_differ_in_grey_print_too():
    grey = [np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) for colour in SHADES[:3]]
    assert min(np.diff(grey)) > 0.12


def test_the_legends_name_each_family_and_in_it_norm_and_method(nine):
    assert legends(plots.norm_figure(nine)) == {
        "low rank": ["identity: svd", "diagonal: asvd", "full: svd_llm"],
        "quantized": ["identity: rtn", "diagonal: awq", "full: gptq"],
        "sparse": ["identity: magnitude", "diagonal: wanda", "full: sparsegpt"],
    }


def test_no_legend_is_cut_off_or_lies_on_another(frame):
    figure = plots.norm_figure(frame)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    found = [child for child in axes.get_children() if type(child).__name__ == "Legend"]
    boxes = [one.get_window_extent() for one in [*found, *figure.legends]]
    assert len(boxes) == 4
    for index, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:index])


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_dense_model_is_a_line_and_a_point_at_its_own_bits(tmp_path, seeds):
    (axes,) = plots.norm_figure(store.load(records.write_texts(tmp_path, seeds))).axes
    (line,), (point,) = by_gid(axes, "dense"), by_gid(axes, "dense point")
    assert set(line.get_ydata()) == {records.DENSE_PERPLEXITY}
    assert point.get_xdata() == [pytest.approx(32)]
    assert point.get_ydata() == [records.DENSE_PERPLEXITY]


def test_the_front_is_of_less_perplexity_at_fewer_bits(frame):
    (axes,) = plots.norm_figure(frame).axes
    points = [(32.0, records.DENSE_PERPLEXITY)]
    for _, _, sizes, perplexities in records.CELLS.values():
        points += zip(sizes.values(), perplexities, strict=True)
    front = {
        (x, y)
        for x, y in points
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points)
    }
    (ringed,) = by_gid(axes, "front")
    assert np.allclose(sorted(map(tuple, ringed.get_offsets())), sorted(front))
    (steps,) = by_gid(axes, "front steps")
    path = steps.get_path().vertices
    assert steps.get_drawstyle() == "steps-post"
    # Each corner is the best that can be had with so many bits or fewer.
    for (x, y), (x_next, y_next) in zip(path, path[1:], strict=False):
        assert y_next <= y and x_next >= x
        if x_next > x:
            assert y == pytest.approx(min(b for a, b in points if a <= (x + x_next) / 2))


def test_axes_are_logarithmic_with_plain_numbers(nine):
    (axes,) = plots.norm_figure(nine).axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    axes.figure.draw_without_rendering()
    for axis, low, high in ((axes.xaxis, *axes.get_xlim()), (axes.yaxis, *axes.get_ylim())):
        shown = [
            (place, label.get_text())
            for place, label in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
            if low <= place <= high
        ]
        assert len(shown) >= 5
        assert all(float(text.replace(",", "")) == pytest.approx(at) for at, text in shown)
        assert not len(axis.get_minorticklocs())


def test_what_explodes_is_cut_off_and_said(nine):
    figure = plots.norm_figure(nine)
    (axes,) = figure.axes
    top = axes.get_ylim()[1]
    assert 1 < top / (MOST_TIMES_DENSE * records.DENSE_PERPLEXITY) < 1.5
    above = [
        (bits, y)
        for method in records.NINE
        for bits, y in zip(records.CELLS[method][2].values(), records.CELLS[method][3], strict=True)
        if y > top
    ]
    arrows = by_gid(axes, "beyond")
    assert sorted(float(arrow.get_xdata()[0]) for arrow in arrows) == pytest.approx(
        sorted(bits for bits, _ in above)
    )
    # In the axes, and none on another.
    figure.draw_without_rendering()
    point = figure.dpi / 72
    places = [arrow.get_transform().transform((arrow.get_xdata()[0], 1)) for arrow in arrows]
    assert all(axes.bbox.contains(x, y + 3 * point) for x, y in places)
    assert min(np.diff(sorted(x for x, _ in places))) > 4 * point
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "above the axis, up to 21,000" in texts and "dense model (4.756)" in texts


def test_what_does_not_explode_is_shown_whole(nine):
    tame = nine[nine["perplexity"] < 50]
    figure = plots.quality_curve(tame, BITS, "perplexity")
    low, high = figure.axes[0].get_ylim()
    assert low < records.DENSE_PERPLEXITY and tame["perplexity"].max() < high < 60
    assert not by_gid(figure.axes[0], "beyond")
    assert not [t for t in figure.legends[0].get_texts() if "above" in t.get_text()]


@pytest.mark.parametrize("x", [BITS, "compression_ratio"])
def test_a_close_up_on_a_logarithmic_axis_is_a_share_of_the_dense_model(nine, x):
    limits = plots.quality_curve(nine, x, "perplexity", span=0.1).axes[0].get_ylim()
    assert limits == pytest.approx(
        (records.DENSE_PERPLEXITY * 0.99, records.DENSE_PERPLEXITY * 1.1)
    )


def test_a_panel_has_the_arrows_of_its_own_family(frame):
    figure = plots.quality_curve(frame, BITS, "perplexity")
    panels = {axes.get_legend().get_title().get_text(): axes for axes in figure.axes}
    top = panels["sparse"].get_ylim()[1]
    for family, axes in panels.items():
        own = frame[(frame["family"] == family) & (frame["perplexity"] > top)]
        assert len(by_gid(axes, "beyond")) == len(own)
    assert not by_gid(panels["sparse"], "beyond")


def test_records_without_bits_are_refused(tmp_path):
    frame = store.load(records.write(tmp_path, 1, ("svd",)))
    with pytest.raises(ValueError, match="the records hold no layers_bits_per_weight"):
        plots.quality_curve(frame, BITS)
