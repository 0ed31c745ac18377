"""Captions say how much was compressed, and from which dtype the ratio counts."""

import made_records as records
import pytest

from lowrank.metrics.metric import Metric
from lowrank.records import store
from lowrank.records.columns import usual_size
from lowrank.reporting import plots
from lowrank.reporting.captions import coverage, dense_dtype, share
from lowrank.reporting.curves import first_measure
from lowrank.reporting.norm_table import norm_table
from lowrank.reporting.tables import long_table, summary_table


def loaded(folder, shares, dtypes=("float16",), method="gptq"):
    """A language model of which such shares were compressed, at one level after the other."""
    for step, part in enumerate(shares):
        made_up = records.text_record(method, step)
        made_up["ratios"] |= {} if part is None else {"coverage": part}
        dtype = dtypes[step % len(dtypes)]
        store.save(made_up | ({} if dtype is None else {"dense_dtype": dtype}), folder)
    return store.load(folder)


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        ([0.2, 0.2], "20 % of the model's parameters lie in compressed weights"),
        ([0.2, 0.875], "20 to 87.5 % of the model's parameters lie in compressed weights"),
        ([0.2, None], "20 % of the model's parameters lie in compressed weights"),
        ([0.98, 0.999], "98 to 99.9 % of the model's parameters lie in compressed weights"),
        ([0.9951, 1.0], ""),
        ([None, None], ""),
    ],
)
def test_how_much_was_compressed(tmp_path, shares, text):
    frame = loaded(tmp_path, shares)
    assert coverage(frame) == text
    for table in (summary_table(frame, "perplexity"), long_table(frame)):
        assert (f" {text}." in table.caption) == bool(text)
    note = " ".join(note_of(plots.quality_curve(frame, y="perplexity")).split())
    assert (text in note) if text else "lie in compressed" not in note


def note_of(figure):
    return figure.legends[0].get_title().get_text()


def test_the_table_of_norms_says_it_too(tmp_path):
    loaded(tmp_path, [0.2], method="rtn")
    frame = loaded(tmp_path, [0.3])
    caption = norm_table(frame).caption
    assert "20 to 30 % of the model's parameters" in caption and "dense in float16" in caption


def test_what_differs_between_points_has_a_column(tmp_path):
    frame = loaded(tmp_path / "differ", [0.2, 0.875])
    assert list(long_table(frame).cells["coverage (%)"]) == ["20.00", "87.50"]
    assert "coverage (%)" not in long_table(loaded(tmp_path / "same", [0.2, 0.2])).cells


@pytest.mark.parametrize("part", [0.9996, 0.99951, 0.99999])
def test_only_the_whole_is_all(part):
    assert share(part) == "99.9" or float(share(part)) < 100
    assert share(1.0) == "100" and share(0.2) == "20" and share(0.1234) == "12.3"


@pytest.mark.parametrize(
    ("dtypes", "text"),
    [
        (["float16"], "dense in float16"),
        (["float16", "float32"], "dense in float16 or float32"),
        (["float16+float32"], "dense in float16+float32"),
        (["bfloat16", None], "dense in bfloat16"),
        ([None], ""),
    ],
)
def test_the_dtype_from_which_the_ratio_counts(tmp_path, dtypes, text):
    frame = loaded(tmp_path, [0.2, 0.2], dtypes)
    assert dense_dtype(frame) == text
    for table in (summary_table(frame, "perplexity"), long_table(frame)):
        assert table.caption.startswith(
            f"stories, llama, without recovery{f', {text}' if text else ''}: "
        )
    assert text in note_of(plots.quality_curve(frame, y="perplexity"))


def test_bits_stand_beside_the_ratio_and_are_those_of_the_entry(tmp_path):
    frame = loaded(tmp_path, [0.2, 0.2, 0.2])
    table = summary_table(frame, "perplexity", steps=(2, 3.4, 3.6))
    _, _, sizes, perplexities = records.CELLS["gptq"]
    points = [(1 / (0.2 + 0.8 * bits / 32), bits) for bits in sizes.values()]
    for step in (2, 3.4, 3.6):
        reaching = [i for i, (ratio, _) in enumerate(points) if ratio >= step]
        bits = points[min(reaching, key=lambda i: perplexities[i])][1]
        assert table.cells[f"{step:g}×"][0].endswith(f" ({bits:.3g} bits)")
        assert table.values[f"{step:g}x_bits"][0] == pytest.approx(bits)
    none = summary_table(frame, "perplexity", steps=(99,))
    assert none.cells["99×"][0] == "–" and none.values["99x_bits"].isna().all()
    assert "In brackets: the bits per weight" in table.caption
    header = list(long_table(store.load(tmp_path)).cells)
    assert header[header.index("compression ratio") + 1] == "bits per weight"


def test_records_without_bits_have_no_brackets(tmp_path):
    table = summary_table(store.load(records.write(tmp_path, 1, ("svd",))))
    assert "(" not in "".join(table.cells.iloc[0]) and "In brackets" not in table.caption


@pytest.mark.parametrize(
    ("shares", "size"),
    [
        ([0.2, 0.99], "layers_bits_per_weight"),
        ([0.89, 0.89], "layers_bits_per_weight"),
        ([0.91, 0.95], "compression_ratio"),
        ([None, None], "compression_ratio"),
    ],
)
def test_what_records_are_shown_against(tmp_path, shares, size):
    assert usual_size(loaded(tmp_path, shares)) == size


def test_without_bits_it_is_the_ratio(tmp_path):
    made_up = records.record("svd", 1)
    made_up["ratios"]["coverage"] = 0.2
    store.save(made_up, tmp_path)
    assert usual_size(store.load(tmp_path)) == "compression_ratio"


@pytest.mark.parametrize("names", [("mse", "top1"), ("f1", "mse", "loss")])
def test_the_task_says_by_which_measure_it_judges(tmp_path, names):
    """In whatever order the values are, and where a broken model has none of the first."""
    metrics = records.plain([Metric(name, name, name) for name in names])
    values = dict.fromkeys(reversed(names), 0.5)
    made_up = records.record("svd", 1) | {"metrics": metrics}
    made_up |= {"validation": values, "standard_errors": records.NO_ERRORS}
    dense, sizes = values | {"params": 1, "bytes": 4}, {"params": 1, "bytes": 4}
    store.save(made_up | {"compressed": values | sizes, "dense": dense}, tmp_path)
    assert first_measure(store.load(tmp_path)) == names[0]
    broken = {name: 0.5 for name in names[1:]} | sizes
    store.save(made_up | {"compressed": broken, "dense": dense}, tmp_path)
    assert first_measure(store.load(tmp_path)) == names[1]
    store.save(made_up | {"compressed": sizes, "dense": dense}, tmp_path)
    with pytest.raises(ValueError, match=f"no value of what their task measures .{names[0]}, "):
        first_measure(store.load(tmp_path))


def test_a_table_says_what_chance_gives(tmp_path):
    frame = store.load(records.write(tmp_path, 1, ("svd",)))
    assert summary_table(frame).caption.endswith(" By chance: 10.00.")
    assert "By chance" not in summary_table(frame, "loss").caption
