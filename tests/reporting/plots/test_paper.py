"""Figures for print: exact widths, print of the size asked for, every line named, no cut text."""

import re

import made_records as records
import pytest
from matplotlib.text import Text
from test_canvas import BITS, SETS, TEXTS, check

from lowrank.records import store
from lowrank.reporting import plots
from lowrank.reporting.curves import dense_baseline, summarise
from lowrank.reporting.plots.paper import MOST_LABELLED, WIDTHS

FEW = ["magnitude", "random", "svd", "uniform"]


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return store.load(records.write(tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return store.load(records.write_texts(tmp_path_factory.mktemp("texts"), 2))


def labels(figure):
    """The direct labels of a figure, as names."""
    found = figure.findobj(lambda one: isinstance(one, Text) and one.get_gid() == "direct label")
    return [text.get_text().replace("\n", "") for text in found]


def names_apart(figure):
    found = figure.findobj(lambda one: isinstance(one, Text) and one.get_gid() == "direct label")
    boxes = [text.get_window_extent() for text in found]
    return not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


@pytest.mark.parametrize("width", ["column", "page", 4.2])
@pytest.mark.parametrize("methods", [None, FEW])
def test_the_width_is_exact_and_every_method_is_named_once(frame, width, methods):
    figure = check(plots.paper_curve(frame, methods=methods, width=width))
    assert figure.get_figwidth() == (WIDTHS[width] if isinstance(width, str) else width)
    assert sorted(labels(figure)) == sorted(methods or frame["method"].unique())
    assert names_apart(figure)
    assert len(figure.axes) == (1 if methods else frame["family"].nunique())


@pytest.mark.parametrize("name", SETS)
def test_no_text_is_cut_off(frame, name):
    figure = check(plots.paper_curve(SETS[name](frame)))
    assert names_apart(figure)
    assert all(axes.bbox.width / figure.dpi > 1 for axes in figure.axes)


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_is_cut_off_on_a_logarithmic_axis(texts, name):
    assert names_apart(check(plots.paper_curve(TEXTS[name](texts), BITS, "perplexity")))


@pytest.mark.parametrize("size", [6, 10])
def test_print_has_the_size_that_was_asked_for(frame, size):
    figure = check(plots.paper_curve(frame, methods=FEW, width="page", font_size=size))
    sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()}
    assert sizes == {size, size - 1}


def test_lines_go_through_the_means_of_the_methods_asked_for(frame):
    (axes,) = plots.paper_curve(frame, methods=["svd", "magnitude"]).axes
    points = summarise(frame, ["top1"])
    for line in axes.get_legend_handles_labels()[0]:
        own = points[points["method"] == line.get_label()]
        assert line.get_ydata() == pytest.approx(own["top1"].to_numpy())
        assert line.get_xdata() == pytest.approx(own["compression_ratio"].to_numpy())


@pytest.mark.parametrize("x", [BITS, "compression_ratio"])
def test_names_stand_where_compression_is_strongest(texts, x):
    (axes,) = plots.paper_curve(texts, x, "perplexity", methods=["rtn", "gptq"]).axes
    for line in axes.get_legend_handles_labels()[0]:
        pixels = axes.transData.transform(line.get_xydata())[:, 0]
        assert list(pixels) == sorted(pixels)
    dense = axes.transData.transform((32 if x == BITS else 1, 5))[0]
    assert dense < pixels[0]


def test_more_methods_than_can_be_told_apart_get_panels(frame):
    names = sorted(frame["method"].unique())
    assert len(plots.paper_curve(frame, methods=names[:MOST_LABELLED]).axes) == 1
    assert len(plots.paper_curve(frame, methods=names[: MOST_LABELLED + 1]).axes) > 1


def test_the_caption_says_what_the_figure_does_not(frame):
    text = plots.paper_caption(frame, methods=FEW)
    assert text.startswith("digits, mlp, without recovery: top-1 accuracy (test split) against ")
    assert "Lines go through the means of 3 seeds." in text
    one = plots.paper_caption(frame[frame["seed"] == 0], methods=FEW)
    assert "seeds" not in one
    close = plots.paper_caption(frame, methods=FEW, span=0.03)
    tops = summarise(frame[frame["method"].isin(FEW)], ["top1"]).groupby("method")["top1"].max()
    dense = dense_baseline(frame, "top1")[0]
    assert list(tops.index[tops < dense - 0.03]) == ["random"]
    assert close.endswith("Outside the axes: random.")
    close_up = plots.paper_curve(frame, methods=FEW, span=0.03)
    assert sorted(labels(close_up)) == sorted({*FEW} - {"random"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["svdd"]}, "no record has method 'svdd': there are codebook, lora"),
        ({"methods": []}, r"methods=\[\] leaves nothing"),
        ({"width": "colum"}, "width='colum' must be column or page, or inches from 2 to 100"),
        ({"width": 1.5}, "width=1.5 must be"),
        ({"width": float("nan")}, "width=nan must be"),
        ({"font_size": 4}, "font_size=4 must be points of print from 5 to 16"),
        ({"font_size": "8"}, "font_size='8' must be"),
        ({"span": 0}, "span=0 must be above 0"),
    ],
)
def test_what_cannot_be_printed_is_refused(frame, settings, message):
    with pytest.raises(ValueError, match=message):
        plots.paper_curve(frame, **settings)


def test_saved_for_print_with_embedded_fonts_text_as_text_and_the_same_again(frame, tmp_path):
    for name in ("first", "again"):
        figure = plots.paper_curve(frame, methods=FEW)
        pdf, svg = plots.save_for_print(figure, tmp_path / "new" / f"{name}-2.5x")
        assert (pdf.name, svg.name) == (f"{name}-2.5x.pdf", f"{name}-2.5x.svg")
    for path in (pdf, svg):
        assert path.read_bytes() == path.with_name(path.name.replace("again", "first")).read_bytes()
    content = pdf.read_bytes()
    assert b"/FontFile2" in content and b"/Type3" not in content and b"/CreationDate" not in content
    (box,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", content)
    assert float(box[0]) == pytest.approx(72 * WIDTHS["column"])
    text = svg.read_text()
    assert all(f">{name}</text>" in text for name in FEW) and "<dc:date>" not in text
