"""Statistics that calibration cannot have found, and damaged files of them."""

import hostile
import torch
from files import INF, NAN, NOT_WHOLE, saved
from row import Row

from lowrank.calibration import Calibration
from lowrank.calibration.statistics import Statistics
from lowrank.files import tensor_files

MOMENT = torch.eye(3)


def statistics(columns=MOMENT, rows=None, count=1):
    def act(folder):
        return Calibration({"a": Statistics(columns, rows, count)}, {}).save(folder / "s")

    return act


def said(*notes, count=1, columns=MOMENT):
    """Statistics with notes."""
    entry = Statistics(columns, None, count, notes)
    return lambda folder: Calibration({"a": entry}, {}).save(folder / "s")


def edited_statistics(change):
    def act(folder):
        Calibration({"a": Statistics(MOMENT, torch.ones(2), 1)}, {"x": 1}).save(folder / "s")
        return Calibration.load(hostile.edited(folder / "s", change))

    return act


def of_a(**fields):
    return edited_statistics(lambda own: own["layers"]["a"].update(fields))


def forged_statistics(columns):
    def act(folder):
        layer = {"count": 1, "notes": [], "columns": "x"}
        own = {"format": 3, "layers": {"a": layer}, "source": {}}
        tensor_files.write(folder / "s", {"x": columns}, "statistics", own)
        return Calibration.load(folder / "s")

    return act


def model_as_statistics(folder):
    return Calibration.load(saved(folder))


def cut_statistics(folder):
    statistics()(folder)
    (folder / "s").write_bytes((folder / "s").read_bytes()[:-3])
    return Calibration.load(folder / "s")


def flipped_statistics(folder):
    statistics(torch.rand(3))(folder)
    data = (folder / "s").read_bytes()
    (folder / "s").write_bytes(data[:-2] + bytes([data[-2] ^ 4]) + data[-1:])
    return Calibration.load(folder / "s")


ROWS = [
    Row("means in 8 bits", statistics(MOMENT.to(torch.float8_e4m3fn)), "float8_e4m3fn are no mean"),
    Row("means over nothing", said("why", count=0), "columns are means over count=0 positions"),
    Row(
        "nothing, without reason",
        said(count=0, columns=None),
        "the notes must say why nothing reached",
    ),
    Row(
        "neither columns nor rows",
        said(count=3, columns=None),
        "count=3 there must be columns or rows",
    ),
    Row("a note without end", said("x" * 10**6), "lines of text of at most 2000 characters"),
    Row("notes without end", said(*["x" * 100] * 21), "lines of text of at most 2000 characters"),
    Row("a note of two lines", said("a\nb"), "must be lines of text"),
    Row("a note for a terminal", said("x", "\x1b[2J"), "must be lines of text"),
    Row("a note that is a number", said("x", 3), r"notes=\('x', 3\) must be a tuple of texts"),
    Row("a note that says nothing", said(""), r"notes=\(''"),
    Row("read notes that are one text", of_a(notes="x"), "notes is 'x': it must be a list"),
    Row(
        "read means in 8 bits", forged_statistics(MOMENT.to(torch.float8_e5m2)), "float8_e5m2 are n"
    ),
    Row("read a note for a terminal", of_a(notes=["\x1b[2J"]), "must be lines of text"),
    Row("read a note without end", of_a(notes=["x" * 10**6]), "must be lines of text"),
    Row("read means over nothing", of_a(count=0), "columns and rows are means over count=0"),
    Row("count below zero", statistics(count=-1), "'a': count=-1 must be a number of positions"),
    Row("count that is true", statistics(count=True), "count=True"),
    Row("moment with NaN", statistics(MOMENT * NAN), "'a': columns are not finite"),
    Row("moment that is not square", statistics(torch.ones(2, 3)), "are no means"),
    Row("moment of three dimensions", statistics(torch.ones(2, 2, 2)), "are no means"),
    Row("moment that is not symmetric", statistics(MOMENT + torch.ones(3, 3).triu()), "symmetric"),
    Row(
        "mean squares below zero", statistics(-torch.ones(3)), "columns have negative mean squares"
    ),
    Row(
        "shares of look-ups as a matrix", statistics(None, MOMENT), "rows of shape .* are no means"
    ),
    Row("infinite rows", statistics(None, torch.tensor([1, INF])), "rows are not finite"),
    Row("statistics of integers", statistics(torch.ones(3).long()), "torch.int64 are no means"),
    Row("no statistics", statistics(torch.ones(0)), r"of shape \(0,\) .* are no means"),
    Row("read a count in words", of_a(count="1"), "layers.a.count is '1': it must be an integer"),
    Row("read a count below zero", of_a(count=-5), "count is -5"),
    Row("read a part that is not there", of_a(columns="b.columns"), "columns is 'b.columns'"),
    Row("read unknown parts", of_a(gradients="a.rows"), r"has \['gradients'\] besides"),
    Row(
        "read half of it", edited_statistics(lambda o: o["layers"].clear()), "no layer has the ten"
    ),
    Row(
        "read layers as a list", edited_statistics(lambda o: o | {"layers": []}), "layers must be a"
    ),
    Row("read no source", edited_statistics(lambda o: o.pop("source") and o), "lacks 'source'"),
    Row(
        "read an old format", edited_statistics(lambda o: o | {"format": 2}), "format 2, .* reads 3"
    ),
    Row("read NaN", forged_statistics(torch.tensor([1, NAN])), "s: 'a': columns are not finite"),
    Row("read negative squares", forged_statistics(-torch.rand(2, 2)), "negative mean squares"),
    Row("read a model as statistics", model_as_statistics, "no statistics .*, but 'model'"),
    Row("read cut statistics", cut_statistics, NOT_WHOLE),
    Row("read flipped statistics", flipped_statistics, "is damaged"),
    Row("read a folder as statistics", Calibration.load, "has no statistics of"),
]
