"""The figures show the numbers of the records: what is drawn is checked, artist by artist."""

import json
import math
import re

import made_records as records
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from lowrank.records import store
from lowrank.reporting import plots
from lowrank.reporting.curves import dense_baseline, pareto_front, summarise
from lowrank.reporting.plots.quality import MOST_LINES
from lowrank.reporting.plots.spectra import best_errors, singular_values

FEW = ["magnitude", "random", "svd", "uniform"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return records.write(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def frame(folder):
    return store.load(folder)


@pytest.fixture(scope="module")
def few(frame):
    return frame[frame["method"].isin(FEW)]


@pytest.fixture(scope="module")
def layers(folder):
    return store.load_layers(folder)


def lines(axes):
    """The lines of methods in one pair of axes, by name."""
    named = {line.get_label(): line for line in axes.get_lines()}
    return {name: line for name, line in named.items() if not name.startswith("_")}


def by_gid(axes, gid):
    (artist,) = [artist for artist in axes.get_children() if artist.get_gid() == gid]
    return artist


def test_what_was_tuned_beside_an_untouched_dense_model_has_hollow_markers(frame):
    plain = frame[frame["method"] == "svd"]
    own = {"recovery": "tune", "tuned": True}
    tuned = plain.assign(method="svd + tune", point=plain["point"] + "t", **own)
    tuned = tuned.assign(**{"recovery._target_": "Tune"})
    figure = plots.quality_curve(pd.concat([plain, tuned], ignore_index=True))
    drawn = lines(figure.axes[0])
    assert to_hex(drawn["svd + tune"].get_markerfacecolor()) == "#ffffff"
    assert to_hex(drawn["svd"].get_markerfacecolor()) == to_hex(drawn["svd"].get_color())
    hollow = "hollow: tuned on data"
    assert hollow in [text.get_text() for text in figure.legends[0].get_texts()]
    # After a training that the dense model had too, all are alike.
    trained = plots.quality_curve(plain.assign(**own, dense_recovery="tune"))
    assert hollow not in [text.get_text() for text in trained.legends[0].get_texts()]


def test_a_legend_of_long_names_stays_within_the_figure(few):
    longer = {name: f"{name} + corrected_tune_of_parts" for name in FEW}
    figure = plots.quality_curve(few.assign(method=few["method"].map(longer)))
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1


@pytest.mark.parametrize("x", ["compression_ratio", "theoretical_speedup", "speedup_b1"])
@pytest.mark.parametrize("y", ["top1", "loss"])
def test_a_line_goes_through_the_means_of_its_method(few, x, y):
    (axes,) = plots.quality_curve(few, x, y).axes
    drawn = lines(axes)
    assert sorted(drawn) == FEW
    for method, own in few.groupby("method"):
        means = own.groupby("level")[["top1", "loss", "compression_ratio"]].mean()
        means[x] = own.groupby("level")[x].mean()
        means = means.sort_values("compression_ratio")
        assert np.allclose(drawn[method].get_xdata(), means[x])
        assert np.allclose(drawn[method].get_ydata(), means[y])


def test_the_band_is_one_deviation_to_each_side(few):
    (axes,) = plots.quality_curve(few[few["method"] == "svd"]).axes
    (band,) = [c for c in axes.collections if type(c).__name__ == "FillBetweenPolyCollection"]
    corners = band.get_paths()[0].vertices
    for _, level in few[few["method"] == "svd"].groupby("level"):
        at = np.isclose(corners[:, 0], level["compression_ratio"].mean())
        mean, spread = level["top1"].mean(), level["top1"].std(ddof=1)
        assert np.isclose(corners[at, 1].min(), mean - spread)
        assert np.isclose(corners[at, 1].max(), mean + spread)


def test_one_seed_is_drawn_without_a_spread_and_the_legend_claims_none(few):
    figure = plots.quality_curve(few[few["seed"] == 0])
    assert len(lines(figure.axes[0])) == len(FEW)
    assert not [text for text in figure.legends[0].get_texts() if "std" in text.get_text()]
    shown = plots.quality_curve(few).legends[0].get_texts()
    assert [t.get_text() for t in shown if "std" in t.get_text()] == ["± 1 std, 3 seeds"]


def test_the_dense_model_is_a_horizontal_line_with_its_spread(few):
    (axes,) = plots.quality_curve(few).axes
    mean, spread = dense_baseline(few, "top1")
    assert set(by_gid(axes, "dense").get_ydata()) == {mean}
    spans = [patch.get_height() for patch in axes.patches if patch.get_height() > 0]
    assert spans == [pytest.approx(2 * spread)]


def test_rings_are_the_front_and_steps_what_it_can_give(few):
    (axes,) = plots.quality_curve(few).axes
    points = summarise(few, ["top1"])
    ratios = np.append(points["compression_ratio"], 1.0)
    tops = np.append(points["top1"], dense_baseline(few, "top1")[0])
    on_front = [
        not any((ratios >= ratio) & (tops >= top) & ((ratios > ratio) | (tops > top)))
        for ratio, top in zip(ratios, tops, strict=True)
    ]
    expected = sorted(zip(ratios[on_front], tops[on_front], strict=True))
    ringed = by_gid(axes, "front").get_offsets()
    assert np.allclose(sorted(map(tuple, np.asarray(ringed))), expected)
    steps = by_gid(axes, "front steps")
    assert steps.get_drawstyle() == "steps-pre"
    for ratio, top in zip(steps.get_xdata(), steps.get_ydata(), strict=True):
        assert top == pytest.approx(tops[ratios >= ratio].max())


def test_the_ratio_axis_is_log2_with_its_unit_and_scope(few):
    (axes,) = plots.quality_curve(few).axes
    assert axes.get_xscale() == "log"
    assert list(axes.get_xticks()) == [1, 2, 4, 8, 16, 32]
    assert [tick.get_text() for tick in axes.get_xticklabels()][:3] == ["1×", "2×", "4×"]
    title = " ".join(axes.get_xlabel().split())
    assert title == "compression ratio (whole model, dense bytes / compressed bytes)"
    assert axes.get_ylabel() == "top-1 accuracy (test split)"


def test_a_measured_speedup_says_on_what_and_shows_its_spread(few):
    (axes,) = plots.quality_curve(few, "speedup_b64").axes
    assert "batch 64, cpu, 1 thread, float32" in axes.get_xlabel()
    bars = [c for c in axes.collections if type(c).__name__ == "LineCollection"]
    assert not [c for c in axes.collections if type(c).__name__ == "FillBetweenPolyCollection"]
    own = few[(few["method"] == "magnitude") & (few["level"] == 0.5)]
    ends = own["speedup_b64_low"].mean(), own["speedup_b64_high"].mean()
    assert bars[0].get_segments()[0][:, 0] == pytest.approx(ends)


def test_what_has_no_speedup_is_on_no_front_of_it_and_is_named(few):
    runs_dense = few["method"].isin(["uniform", "random"])
    part = few.assign(speedup_b1=few["speedup_b1"].mask(runs_dense))
    figure = plots.quality_curve(part, "speedup_b1")
    assert sorted(lines(figure.axes[0])) == ["magnitude", "svd"]
    note = " ".join(figure.legends[0].get_title().get_text().split())
    assert note.endswith("without a speedup, batch 1: random, uniform")
    ringed = by_gid(figure.axes[0], "front").get_offsets()
    alone = plots.quality_curve(few[~runs_dense], "speedup_b1")
    assert np.allclose(ringed, by_gid(alone.axes[0], "front").get_offsets())
    points = summarise(part, ["speedup_b1", "top1"])
    front = pareto_front(points["speedup_b1"], points["top1"])
    assert not points[front]["method"].isin(["uniform", "random"]).any()
    with pytest.raises(ValueError, match="no record has both speedup_b1 and top1"):
        plots.quality_curve(few[runs_dense].assign(speedup_b1=math.nan), "speedup_b1")


def test_a_family_without_a_point_has_no_panel(frame):
    part = frame.assign(speedup_b1=frame["speedup_b1"].mask(frame["family"] == "quantized"))
    figure = plots.quality_curve(part, "speedup_b1")
    panels = {axes.get_legend().get_title().get_text() for axes in figure.axes}
    assert panels == set(frame["family"]) - {"quantized"}


def test_figures_say_of_which_task_and_model_they_are(few, layers):
    assert plots.quality_curve(few).get_suptitle() == "digits, mlp, without recovery"
    tuned = few.assign(recovery="finetune", dense_recovery="finetune")
    assert plots.quality_curve(tuned).get_suptitle() == "digits, mlp, after finetune"
    assert (
        plots.layer_figure(layers, at=8).get_suptitle() == "digits, mlp, without recovery: layers"
    )
    assert plots.spectra({"w": torch.eye(2)}, "digits, mlp").get_suptitle() == "digits, mlp"


def test_a_value_without_a_place_on_a_logarithmic_axis_is_refused(few):
    part = few.assign(
        perplexity=few["top1"] - 0.5,
        dense_perplexity=4.0,
        metrics=json.dumps(records.TEXT_METRICS),
    )
    with pytest.raises(ValueError, match="perplexity of .* has no place on a logarithmic axis"):
        plots.quality_curve(part, y="perplexity")


def test_many_methods_get_a_panel_per_family(frame):
    figure = plots.quality_curve(frame)
    families = {family: set(own["method"]) for family, own in frame.groupby("family")}
    panels = {axes.get_legend().get_title().get_text(): axes for axes in figure.axes}
    assert set(panels) == set(families)
    for family, axes in panels.items():
        drawn = lines(axes)
        assert set(drawn) == families[family]
        looks = {(to_hex(line.get_color()), line.get_marker()) for line in drawn.values()}
        assert len(looks) == len(drawn)
        assert by_gid(axes, "front steps")
    limits = {(axes.get_xlim(), axes.get_ylim()) for axes in panels.values()}
    assert len(limits) == 1


def test_methods_keep_their_looks_in_part_of_the_records(frame, few):
    styles = plots.method_styles(frame)
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(styles)
    for name, line in lines(plots.quality_curve(few, styles=styles).axes[0]).items():
        assert line.get_color() == styles[name].colour
        assert line.get_marker() == styles[name].marker
    assert len(FEW) <= MOST_LINES


@pytest.mark.parametrize(("y", "worse"), [("top1", -1), ("loss", 1)])
def test_a_close_up_shows_the_worse_side_of_the_dense_model(few, y, worse):
    dense = dense_baseline(few, y)[0]
    limits = plots.quality_curve(few, y=y, span=0.1).axes[0].get_ylim()
    assert sorted(limits) == pytest.approx(sorted((dense + worse * 0.1, dense - worse * 0.01)))


def test_what_cannot_be_drawn_is_refused(few):
    with pytest.raises(ValueError, match="hold no speed"):
        plots.quality_curve(few, "speed")
    with pytest.raises(ValueError, match="span=0 must be above 0"):
        plots.quality_curve(few, span=0)
    with pytest.raises(ValueError, match="mix 2 values of 'model'"):
        plots.quality_curve(pd.concat([few, few.assign(model="cnn")]))


def test_saved_as_png_for_print_and_svg_and_the_same_again(few, tmp_path):
    for name in ("first", "again"):
        png, svg = plots.save(plots.quality_curve(few), tmp_path / "new" / f"{name}-2.5x")
        assert (png.name, svg.name) == (f"{name}-2.5x.png", f"{name}-2.5x.svg")
    with Image.open(png) as image:
        assert round(image.info["dpi"][0]) >= 200
        assert image.width / image.info["dpi"][0] == pytest.approx(3.5, abs=0.02)
    assert svg.read_text().lstrip().startswith("<?xml") and "<svg" in svg.read_text()
    for path in (png, svg):
        assert path.read_bytes() == path.with_name(path.name.replace("again", "first")).read_bytes()


def maps(figure):
    """The values of the two maps of layers and their row names, seen by whoever looks."""
    shown = [axes for axes in figure.axes if axes.collections and axes.get_yticks().size > 1]
    left, right = (axes for axes in shown if axes.get_xticklabels() and axes.patches)
    names = [label.get_text() for label in left.get_yticklabels()]
    return names, *(np.ma.filled(axes.collections[0].get_array(), np.nan) for axes in (left, right))


def test_the_layer_maps_show_error_and_share_of_bytes(layers):
    names, error, share = maps(plots.layer_figure(layers, at=8))
    row = [re.match(r"svd 8 \(8\.06×\)$", name) is not None for name in names].index(True)
    own = layers[(layers["method"] == "svd") & (layers["level"] == 8)]
    mean = own.groupby("position")[["relative_error", "bytes", "dense_bytes"]].mean()
    assert error[row] == pytest.approx(mean["relative_error"])
    assert share[row] == pytest.approx(100 * mean["bytes"] / mean["dense_bytes"])


def error_title(figure):
    bars = [axes for axes in figure.axes if "error" in axes.get_xlabel()]
    return " ".join(bars[0].get_xlabel().split())


def test_the_error_is_that_in_the_norm_that_was_asked_for(tmp_path):
    records.write_texts(tmp_path, 1, ("gptq", "wanda"))
    layers = store.load_layers(tmp_path)
    figure = plots.layer_figure(layers)
    names, error, _ = maps(figure)
    assert error_title(figure) == "relative error ‖W − Ŵ‖ / ‖W‖ in the norm of its row"
    assert {name.split(", ")[1].split(" ")[0] for name in names} == {"full", "diagonal"}
    for row, name in zip(error, names, strict=True):
        own = layers[(layers["method"] == name.split()[0])]
        own = own[own["level"] == float(name.split()[1].rstrip(","))].sort_values("position")
        # In the made-up records it is half of that in the identity norm.
        assert row == pytest.approx(own["relative_error"].to_numpy() / 2)
    full = plots.layer_figure(layers[layers["method"] == "gptq"])
    assert error_title(full) == "relative error ‖W − Ŵ‖ / ‖W‖ in the full norm"
    assert not [name for name in maps(full)[0] if "full" in name]
    records.write_texts(tmp_path / "rtn", 1, ("rtn",))
    plain = plots.layer_figure(store.load_layers(tmp_path / "rtn"))
    assert error_title(plain) == "relative error ‖W − Ŵ‖ / ‖W‖"


def test_the_error_of_trained_layers_is_that_in_the_identity_norm(tmp_path):
    records.write_texts(tmp_path, 1, ("gptq", "wanda"))
    layers = store.load_layers(tmp_path)
    of_one = layers["method"] == "gptq"
    layers["norm_error"] = layers["norm_error"].mask(of_one)
    layers["tuned"] = True
    figure = plots.layer_figure(layers)
    names, error, _ = maps(figure)
    assert error_title(figure) == (
        "relative error ‖W − Ŵ‖ / ‖W‖ in the norm of its row, W before training"
    )
    assert all(("identity" if "gptq" in name else "diagonal") in name for name in names)
    for row, name in zip(error, names, strict=True):
        own = layers[(layers["method"] == name.split()[0])]
        own = own[own["level"] == float(name.split()[1].rstrip(","))].sort_values("position")
        expected = own["relative_error" if "gptq" in name else "norm_error"]
        assert row == pytest.approx(expected.to_numpy())


def test_levels_that_read_alike_are_rows_of_their_own(layers):
    own = layers[(layers["method"] == "svd") & layers["level"].isin([8, 16])]
    names, error, _ = maps(plots.layer_figure(own.assign(level=math.nan, compression_ratio=4.0)))
    assert names == ["svd (4×)", "svd (4×)"] and not np.allclose(error[0], error[1])


def test_each_method_shows_its_weakest_level_that_reaches_the_ratio(layers):
    names, *_ = maps(plots.layer_figure(layers, at=8))
    reached = layers.groupby(["method", "level"])["compression_ratio"].mean()
    reached = reached[reached >= 8].groupby("method").min()
    assert len(names) == len(reached) == 10  # LoRA makes nothing smaller
    for name in names:
        assert f"({reached[name.split()[0]]:.3g}×)" in name
    assert len(maps(plots.layer_figure(layers[layers["method"] == "lora"]))[0]) == 5


def test_a_layer_that_was_left_alone_is_an_empty_cell(layers):
    without = layers[(layers["method"] != "svd") | (layers["name"] != "2")]
    names, error, share = maps(plots.layer_figure(without, at=8))
    row = [name.startswith("svd 8") for name in names].index(True)
    assert [math.isnan(value) for value in error[row]] == [False, True, False]
    assert np.isnan(error).sum() == np.isnan(share).sum() == 1


def test_no_method_at_the_ratio_is_said(layers):
    with pytest.raises(ValueError, match="no method makes the whole model 99× .* reaches 33.9×"):
        plots.layer_figure(layers, at=99)


def test_spectra_are_the_singular_values_and_the_least_errors():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 30, generator=generator, dtype=torch.float64)
    u, sigma, vh = torch.linalg.svd(weight, full_matrices=False)
    assert torch.allclose(singular_values("w", weight), sigma)
    for rank, error in enumerate(best_errors(sigma), start=1):
        best = u[:, :rank] * sigma[:rank] @ vh[:rank]
        left = torch.linalg.matrix_norm(weight - best) / torch.linalg.matrix_norm(weight)
        assert float(error) == pytest.approx(float(left), abs=1e-12)
    left, right = plots.spectra({"w": weight, "v": weight.T}).axes
    assert lines(left)["w"].get_ydata() == pytest.approx((sigma / sigma[0]).numpy())
    assert lines(right)["w"].get_xdata() == pytest.approx([r * 42 / 360 for r in range(1, 13)])
    assert lines(left)["v"].get_ydata() == pytest.approx(lines(left)["w"].get_ydata())


def test_spectra_of_many_layers_have_a_scale_for_a_legend(tmp_path):
    generator = torch.Generator().manual_seed(0)
    many = {f"layer{i}": torch.randn(6, 8, generator=generator) for i in range(20)}
    figure = plots.spectra(many)
    assert not figure.legends
    ticks = [label.get_text() for label in figure.axes[2].get_yticklabels()]
    assert ticks[0] == "layer0" and ticks[-1] == "layer19"
    assert all(path.exists() for path in plots.save(figure, tmp_path / "spectra"))


@pytest.mark.parametrize(
    ("matrices", "reason"),
    [
        ({}, "no weight matrix"),
        ({"w": torch.ones(3)}, r"w: .* shape \(3,\)"),
        ({"w": torch.zeros(3, 2)}, "w: a spectrum needs a finite, non-zero matrix"),
        ({"w": torch.tensor([[1.0, math.nan]])}, "1 values that are NaN"),
    ],
)
def test_spectra_of_what_has_none_are_refused(matrices, reason):
    with pytest.raises(ValueError, match=reason):
        plots.spectra(matrices)


def test_percent_ticks_of_a_narrow_axis_have_no_needless_zeros(few):
    (axes,) = plots.quality_curve(few, span=0.004).axes
    texts = [axes.yaxis.get_major_formatter()(y) for y in (0.984, 0.9835, 0.98, 1.0)]
    assert texts == ["98.4%", "98.35%", "98%", "100%"]
    labels = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert "dense model (97.4%)" in labels


def test_intervals_of_speedups_lie_within_the_axes(few):
    part = few.assign(speedup_b1_low=few["speedup_b1"] / 30, speedup_b1_high=few["speedup_b1"] * 9)
    low, high = plots.quality_curve(part, "speedup_b1").axes[0].get_xlim()
    ends = part.groupby(["method", "level"])[["speedup_b1_low", "speedup_b1_high"]].mean()
    assert low < ends["speedup_b1_low"].min() and ends["speedup_b1_high"].max() < high
