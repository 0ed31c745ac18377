"""No text of a figure is cut off at its edge, whatever the records."""

import math

import made_records as records
import pandas as pd
import pytest
import torch
from matplotlib.text import Text

from lowrank.records import store
from lowrank.reporting import plots

LONG = "a_method_of_many_parts_" * 6
BITS = "layers_bits_per_weight"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = records.write(tmp_path_factory.mktemp("images"))
    return store.load(folder), store.load_layers(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = records.write_texts(tmp_path_factory.mktemp("texts"), 2)
    return store.load(folder), store.load_layers(folder)


def drawn_texts(figure):
    """All texts that are seen; of ticks those within the limits of their axis."""
    ticks = set()
    for axes in figure.findobj(lambda one: hasattr(one, "xaxis")):
        for axis in (axes.xaxis, axes.yaxis):
            seen = {id(tick) for tick in axis._update_ticks()}
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if id(tick) not in seen:
                    ticks |= {id(tick.label1), id(tick.label2)}
    found = figure.findobj(Text)
    return [t for t in found if t.get_visible() and t.get_text().strip() and id(t) not in ticks]


def check(figure):
    figure.draw_without_rendering()
    width, height = figure.bbox.width, figure.bbox.height
    for text in drawn_texts(figure):
        box = text.get_window_extent()
        # A pixel for what hinting of letters takes.
        assert -1 <= box.x0 and box.x1 <= width + 1, text.get_text()
        assert -1 <= box.y0 and box.y1 <= height + 1, text.get_text()
    return figure


def renamed(frame, change):
    return frame.assign(method=frame["method"].map(change))


def without(frame, *columns):
    return frame.assign(**dict.fromkeys(columns, math.nan))


def twenty(frame):
    """Twenty methods of one family."""
    own = frame[frame["method"] == "svd"]
    many = [
        own.assign(method=f"{name}_{i}", point=own["point"] + str(i))
        for i, name in enumerate(["svd", LONG] * 10)
    ]
    return pd.concat(many, ignore_index=True)


SETS = {
    "as they are": lambda frame: frame,
    "few": lambda frame: frame[frame["method"].isin(["svd", "magnitude"])],
    "one point": lambda frame: frame.head(1),
    "long names": lambda frame: renamed(frame, lambda name: f"{name}_{LONG}"),
    "long name of one": lambda frame: renamed(frame[frame["method"] == "svd"], lambda _: LONG),
    "twenty methods": twenty,
    "long task and model": lambda frame: frame.assign(task="t" * 150, model=f"me/{LONG}"),
    "wide letters": lambda frame: renamed(frame, lambda name: f"W{name.upper()}W" * 3),
    "narrow letters": lambda frame: renamed(frame, lambda name: f"{name}_" + "il" * 40),
    "dollars and underscores": lambda frame: renamed(frame, lambda name: f"_{name}$x_$"),
    "what must be said": lambda frame: frame.assign(
        dense_dtype="float16+float32", coverage=0.2, recovery="tune", dense_recovery="tune"
    ),
    "no speedup of most": lambda frame: frame.assign(
        speedup_b1=frame["speedup_b1"].where(frame["method"] == "svd")
    ),
    "slower than dense": lambda frame: frame.assign(speedup_b1=frame["speedup_b1"] / 300),
    "faster by far": lambda frame: frame.assign(speedup_b1=frame["speedup_b1"] * 3000),
    "better than dense": lambda frame: frame.assign(top1=1.0),
    "below nothing": lambda frame: frame.assign(top1=-frame["top1"]),
    "large numbers": lambda frame: frame.assign(top1=frame["top1"] * 1e7),
    "equal numbers": lambda frame: frame.assign(top1=0.5, dense_top1=0.5),
}


@pytest.mark.parametrize("x", ["compression_ratio", "speedup_b1"])
@pytest.mark.parametrize("name", SETS)
def test_curves(images, name, x):
    figure = check(plots.quality_curve(SETS[name](images[0]), x))
    for axes in figure.axes:
        assert axes.bbox.height / figure.dpi > 1.2 and axes.bbox.width / figure.dpi > 2


TEXTS = {
    "as they are": lambda frame: frame,
    "one point": lambda frame: frame.head(1),
    "long names": lambda frame: renamed(frame, lambda name: f"{name}_{LONG}"),
    "exploded": lambda frame: frame.assign(perplexity=frame["perplexity"] * 1e9),
    "hardly worse": lambda frame: frame.assign(perplexity=frame["dense_perplexity"] * 1.0001),
}


@pytest.mark.parametrize("x", [BITS, "compression_ratio", "body_compression_ratio"])
@pytest.mark.parametrize("name", TEXTS)
def test_curves_on_logarithmic_axes(texts, name, x):
    check(plots.quality_curve(TEXTS[name](texts[0]), x, "perplexity"))


@pytest.mark.parametrize("name", ["as they are", "long names", "exploded", "hardly worse"])
def test_norms(texts, name):
    check(plots.norm_figure(TEXTS[name](texts[0])))


def test_norms_of_one_family_and_of_long_ones(texts):
    frame = texts[0]
    check(plots.norm_figure(frame[frame["family"] == "sparse"]))
    check(plots.norm_figure(frame.assign(family=frame["family"].map(lambda name: name + LONG))))


def many_layers(layers):
    parts = [layers.assign(name=f"model.blocks.{i}." + layers["name"]) for i in range(40)]
    many = pd.concat(parts, ignore_index=True)
    return many.assign(position=many.groupby("key").cumcount())


LAYERS = {
    "as they are": lambda layers: layers,
    "one row": lambda layers: layers[layers["key"] == layers["key"].iloc[0]],
    "many layers": many_layers,
    "long names": lambda layers: layers.assign(
        name=layers["name"] + LONG, method=layers["method"] + LONG
    ),
    "no levels": lambda layers: layers.assign(level=math.nan),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", ["images", "texts"])
def test_layers(images, texts, name, kind):
    layers = (images if kind == "images" else texts)[1]
    check(plots.layer_figure(LAYERS[name](layers)))


@pytest.mark.parametrize(
    "names", [["w"], ["fc1", "fc2"], [LONG], [f"{LONG}{i}" for i in range(30)]]
)
def test_spectra(names):
    generator = torch.Generator().manual_seed(0)
    matrices = {name: torch.randn(6, 8, generator=generator) for name in names}
    check(plots.spectra(matrices, title=f"digits, {LONG}"))


def test_break_even():
    made_up = [
        {"family": family, "shape": "4096 × 4096", "batch": batch, "setting": setting}
        | {"over_best_dense": 1 + setting, "kernel": "dense"}
        for family in ("low rank", "sparse", "quantized")
        for batch in (1, 32, 512)
        for setting in (0.125, 0.25, 0.5)
    ]
    check(plots.break_even(pd.DataFrame(made_up), note="a processor with one thread, float32"))


def test_a_text_that_is_cut_off_is_found():
    figure = plots.spectra({"w": torch.eye(3)})
    figure.text(0.99, 0.5, "beyond the edge")
    with pytest.raises(AssertionError, match="beyond the edge"):
        check(figure)
