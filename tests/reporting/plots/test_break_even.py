import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks.break_even import break_even_table
from lowrank.reporting.plots import break_even

SETTINGS = {
    "low rank": {0.1: 4.0, 0.25: 1.5, 0.5: 0.9},
    "sparse": {0.5: 1.01, 0.9: 2.0, 0.95: 4.0},
    "quantized": {2: 3.0, 4: 0.9, 8: 3.0},
}


def made_up() -> pd.DataFrame:
    rows = [
        {"family": family, "shape": f"{width} × {width}", "width": width, "batch": batch}
        | {"setting": setting, "over_best_dense": speedup / (1 if batch == 1 else 5)}
        | {"kernel": "dense" if speedup < 1.05 else "csr"}
        for family, settings in SETTINGS.items()
        for setting, speedup in settings.items()
        for width in (64, 128)
        for batch in (1, 32)
    ]
    return pd.DataFrame(rows)


def test_a_panel_for_each_family_and_shape_and_a_curve_for_each_batch():
    figure = break_even(made_up(), "this machine")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [f"{f}, {w} × {w}" for f in SETTINGS for w in (64, 128)]
    curves = [line for line in figure.axes[0].lines if str(line.get_label()).startswith("batch")]
    assert [line.get_label() for line in curves] == ["batch 1", "batch 32"]
    np.testing.assert_allclose(curves[0].get_ydata(), [4.0, 1.5, 0.9])
    ticks = [tick.get_text() for tick in figure.axes[2].get_xticklabels()]
    assert ticks == ["50%", "90%", "95%"]


def test_what_stays_dense_is_hollow():
    faces = {
        line.get_ydata()[0]: line.get_markerfacecolor()
        for line in break_even(made_up()).axes[0].lines
        if line.get_marker() == "o"
    }
    assert faces[0.9] == "white" and faces[4.0] != "white"


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="nothing to draw: 0 rows"):
        break_even(made_up().iloc[:0])
    with pytest.raises(ValueError, match=r"families not known \['other'\]"):
        break_even(made_up().assign(family="other"))


def test_the_table_says_from_where_on_all_stronger_ones_are_faster():
    table = break_even_table(made_up()).set_index(["family", "batch"])[64]
    assert table["low rank", 1] == "25 %"
    assert table["sparse", 1] == "90 %"
    assert table["quantized", 1] == "2 bits"  # 4 bits are slower, whatever 8 are.
    assert set(table[:, 32]) == {"–"}
