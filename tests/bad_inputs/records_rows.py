"""Bad records, and bad questions to them: tables, figures, options of a report, timing."""

import copy
import json
import math
from pathlib import Path

import made_records as records
import pandas as pd
import torch
import yaml
from omegaconf import OmegaConf
from row import Row
from torch import nn

from experiments.report import fitting
from experiments.report_options import options
from experiments.trackers import WandbTracker
from lowrank.measure import compare_latency
from lowrank.measure.speedup import paired_speedup
from lowrank.records import store
from lowrank.records.columns import measure
from lowrank.reporting import explorer, plots
from lowrank.reporting.curves import (
    comparisons,
    dense_baseline,
    in_several_norms,
    one_comparison,
    summarise,
)
from lowrank.reporting.norm_table import norm_table
from lowrank.reporting.tables import long_table, summary_table

PAIR = (torch.zeros(2, 2),)
DEEP: list = []
for _ in range(60):
    DEEP = [DEEP]


def has(value, *path):
    """Read a record that has `value` at a place."""

    def act(folder):
        made_up = copy.deepcopy(records.record())
        inner = made_up
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        return read(made_up)(folder)

    return act


def lacks(*path):
    """Read a record without what is at a place."""

    def act(folder):
        made_up = copy.deepcopy(records.record())
        inner = made_up
        for name in path[:-1]:
            inner = inner[name]
        del inner[path[-1]]
        return read(made_up)(folder)

    return act


def read(made_up):
    def act(folder):
        (folder / "record.json").write_text(json.dumps(made_up))
        store.load(folder)
        return store.load_layers(folder)

    return act


def save(**changes):
    return lambda folder: store.save(records.record() | changes, folder)


def frame(folder, *made_up):
    for one in made_up or (records.record("svd", 1), records.record("svd", 2)):
        store.save(one, folder)
    return store.load(folder)


def ask(question, change=lambda rows: rows):
    """Put a question to two plain records, or to what is changed in them."""
    return lambda folder: question(change(frame(folder)))


def both(*made_up):
    """Put two records beside each other."""
    return lambda folder: summarise(frame(folder, *made_up), ["top1"])


def of(**columns):
    return lambda rows: rows.assign(**columns)


def twice(rows):
    return pd.concat([rows, rows], ignore_index=True)


def layered(question, **columns):
    def act(folder):
        frame(folder)
        return question(store.load_layers(folder).assign(**columns))

    return act


REPORT = yaml.safe_load((Path(__file__).parents[2] / "conf/report/report.yaml").read_text())
DEFAULTS = {name: value for name, value in REPORT.items() if name not in ("defaults", "hydra")}


def option(**changes):
    """Set options of a report."""

    def act(folder):
        own = {"experiment": "x", "runs": str(folder), "out": str(folder / "out")}
        filled = {name: filled_in(value, folder) for name, value in changes.items()}
        return options(OmegaConf.create(DEFAULTS | own | filled))

    return act


def filled_in(value, folder):
    return value.replace("FOLDER", str(folder)) if isinstance(value, str) else value


def linked(where):
    """Leave a link where the report would write."""

    def act(folder):
        (folder / "elsewhere").mkdir()
        link = folder / "runs" / where
        link.parent.mkdir(parents=True)
        link.symlink_to(folder / "elsewhere")
        return option(runs="FOLDER/runs", out="FOLDER/runs/figures")(folder)

    return act


def a_file(**changes):
    def act(folder):
        (folder / "file").write_text("")
        return option(**changes)(folder)

    return act


def shown(**changes):
    """Ask a report of two records for a measure or a size."""
    return lambda folder: fitting(option(**changes)(folder), comparisons(frame(folder)))


def unmeasured(folder):
    """Ask a report of a record that says nothing of quality."""
    sizes = {"params": 1, "bytes": 4}
    rows = frame(folder, records.record("svd", 1) | {"dense": sizes, "compressed": sizes})
    return fitting(option()(folder), comparisons(rows))


def timed(example=PAIR, **settings):
    return lambda _: compare_latency(nn.Linear(2, 2), nn.Linear(2, 2), example, **settings)


def drawn(**matrices):
    return lambda _: plots.spectra(matrices)


def config(**parts):
    """A record whose config says more."""
    made_up = records.record("svd", 1, **parts)
    return made_up | {"level": 8.0}


POINT = {"family": "sparse", "shape": "8 × 8", "batch": 1, "setting": 0.5}
EVEN = pd.DataFrame([POINT | {"over_best_dense": 1.0, "kernel": "dense"}])

RECORDS = [
    Row("a list is no record", read([1]), "mapping of fields, not list"),
    Row("a text is no record", read("x"), "mapping of fields, not str"),
    Row("it lacks its layers", lacks("layers"), "lacks layers"),
    Row("it lacks the dense params", lacks("dense", "params"), "lacks dense.params"),
    Row("it lacks a ratio", lacks("ratios", "param_ratio"), "lacks ratios.param_ratio"),
    Row("a later schema", has(4, "schema"), "schema=4 is not the known one, 3: another version"),
    Row("an older schema", has(2, "schema"), "schema=2 is .* has to be measured again"),
    Row("no schema", lacks("schema"), "lacks schema"),
    Row("no metrics", has([], "metrics"), "metrics must be a list of metrics, the first that"),
    Row("metrics that are a text", has("top1", "metrics"), "metrics must be a list of metrics"),
    Row("a metric that is a text", has("x", "metrics", 0), r"metrics\[0\] must be a mapping of fi"),
    Row("a metric without a title", lacks("metrics", 0, "title"), r"metrics\[0\] lacks title"),
    Row("a metric of two lines", has("a\nb", "metrics", 0, "name"), r"name='a\\nb' of a metric "),
    Row("a title that is empty", has("", "metrics", 1, "title"), r"metrics\[1\]: title='' of"),
    Row("a heading of a page", has("x" * 201, "metrics", 0, "heading"), "is above 200 letters"),
    Row("a title that moves the cursor", has("\x1b[2J", "metrics", 0, "title"), "printable text"),
    Row("an unknown scale", has("loud", "metrics", 0, "scale"), "scale='loud' must be one of"),
    Row("better by a text", has("no", "metrics", 0, "higher_is_better"), "better='no' must"),
    Row("chance that is a text", has("x", "metrics", 0, "chance"), "chance='x' must be a number"),
    Row("a dense value too large", has(1e200, "metrics", 0, "dense"), "dense=1e.200 must lie with"),
    Row("a field of no metric", has(1, "metrics", 0, "unit"), r"metrics\[0\] has no field 'unit'"),
    Row("a metric twice", has("top5", "metrics", 0, "name"), "metrics has 'top5' more than once"),
    Row("a cost for a metric", has("bytes", "metrics", 0, "name"), "metrics names bytes, which is"),
    Row("a measure of no metric", has(1.0, "dense", "glue"), "dense.'glue' is neither a cost nor"),
    Row("a schema that equals one", has(True, "schema"), "schema=True is not the known one"),
    Row("a task that is a number", has(3, "task"), "task=3 must be a printable text"),
    Row("a model without a name", has("", "model"), "model='' must be a printable"),
    Row("a name of two lines", has("a\nb", "method"), r"method='a\\nb' must be a printable"),
    Row("a name that moves the cursor", has("\x1b[2J", "family"), r"family='\\x1b\[2J' must be"),
    Row("a name that reads backwards", has("a\u202eb", "method"), r"method='a\\u202eb' must be"),
    Row("a name as long as a page", has("x" * 201, "recovery"), "of 1 to 200 letters"),
    Row("a key that is a number", has(7, "key"), "key=7 must be"),
    Row("a norm that is a list", has(["full"], "norm"), r"norm=\['full'\] must be"),
    Row("no dense recovery", has(None, "dense_recovery"), "dense_recovery=None must be"),
    Row("a dtype of two lines", has("float\n16", "dense_dtype"), "dense_dtype=.* must be"),
    Row("a level that is a text", has("strong", "level"), "level='strong' must be a number"),
    Row("a level that is a switch", has(True, "level"), "level=True must be a number"),
    Row("a level that no float can be", has(10**400, "level"), r"level=1000.*\.\.\. must be"),
    Row("a level that is NaN", has(math.nan, "level"), "level is nan: a failed measurement"),
    Row("a seed that is a fraction", has(0.5, "seed"), "seed=0.5 must be a whole number"),
    Row("a seed that is a switch", has(False, "seed"), "seed=False must be a whole number"),
    Row("tuned by a text", has("yes", "tuned"), "tuned='yes' must be true or false"),
    Row("a config that is a list", has([], "config"), "config must be a mapping of fields"),
    Row("no environment", has(None, "environment"), "environment must be a mapping .*not null"),
    Row("ratios that are a text", has("x", "ratios"), "ratios must be a mapping .*not str"),
    Row("calibration that is a list", has([1], "calibration"), "calibration must be a mapping"),
    Row("recovered that is a number", has(1, "recovered"), "recovered must be a mapping"),
    Row("an accuracy that is a text", has("high", "dense", "top1"), "dense.top1='high' must be"),
    Row("a loss that is a switch", has(True, "compressed", "loss"), "compressed.loss=True must"),
    Row("a loss that is a list", has([1], "compressed", "loss"), r"loss=\[1\] must be a number"),
    Row("an infinite loss", has(math.inf, "compressed", "loss"), "compressed.loss is inf"),
    Row("a measure of two lines", has(1, "compressed", "a\nb"), "the name of a measure in compres"),
    Row("a measure called path", has(1, "compressed", "path"), "'path' is neither a cost nor in"),
    Row(
        "a measure of the dense model",
        has(1, "compressed", "dense_loss"),
        "'dense_loss' is",
    ),
    Row("a negative ratio", has(-1, "ratios", "param_ratio"), "ratios.param_ratio=-1 must be"),
    Row("no compression ratio", has(None, "ratios", "compression_ratio"), "must be above 0"),
    Row("a whole ratio of 998 bits", has(10**300, "ratios", "param_ratio"), "param_ratio=1000"),
    Row("a whole ratio of 64 bits", has(2**63, "ratios", "compression_ratio"), "compression_ratio"),
    Row("a ratio without a square", has(1e150, "ratios", "param_ratio"), "param_ratio=1e.150 must"),
    Row("a seed of 64 bits", has(2**63, "seed"), "seed=9223372036854775808 must be a whole number"),
    Row("a ratio of zero", has(0, "ratios", "compression_ratio"), "ratios.compression_ratio must"),
    Row("latency that is a mapping", has({}, "latency"), "latency must be a list, not dict"),
    Row("a latency that is a list", has([], "latency", 0), r"latency\[0\] must be a mapping"),
    Row("a latency of no batch", lacks("latency", 0, "batch_size"), r"lacks latency\[0\].batch_s"),
    Row(
        "a batch of none", has(0, "latency", 0, "batch_size"), r"latency\[0\].batch_size=0 must be"
    ),
    Row("a batch that is a path", has("1/../x", "latency", 0, "batch_size"), "batch_size='1/../x'"),
    Row("a batch twice", has(64, "latency", 0, "batch_size"), r"more than once: \[64, 64\]"),
    Row("a time below zero", has(-1, "latency", 1, "dense_s"), r"latency\[1\].dense_s=-1 must be"),
    Row("no time", has(None, "latency", 1, "compressed_s"), "compressed_s=None must be a number"),
    Row("a speedup that is a text", has("2x", "latency", 0, "speedup"), "speedup='2x' must be"),
    Row("a latency of no device", lacks("latency", 0, "device"), r"latency\[0\].device=None must"),
    Row("a latency of many values", has([1], "latency", 0, "more"), "more' must be one value"),
    Row("no layer", has([], "layers"), "layers is empty: a record is of a model"),
    Row("layers that are a text", has("all", "layers"), "layers must be a list, not str"),
    Row("a layer that is a name", has("fc1", "layers", 1), r"layers\[1\] must be a mapping"),
    Row("a layer of no shape", lacks("layers", 2, "shape"), r"lacks layers\[2\].shape"),
    Row("a shape below zero", has([-1, 0], "layers", 0, "shape"), r"shape=\[-1, 0\] must be two"),
    Row("a shape of nothing", has([5, 0], "layers", 0, "shape"), r"shape=\[5, 0\] must be two"),
    Row("a shape of switches", has([True, 2], "layers", 0, "shape"), r"\[True, 2\] must be two"),
    Row("a shape beyond all memory", has([2**63, 2], "layers", 0, "shape"), "whole numbers from 1"),
    Row("a shape of three", has([1, 2, 3], "layers", 0, "shape"), "must be two whole numbers"),
    Row("a shape of fractions", has([1.5, 2], "layers", 0, "shape"), r"shape=\[1.5, 2\] must be"),
    Row("tied to a text", has("fc2", "layers", 0, "tied_to"), "tied_to='fc2' must be a list"),
    Row(
        "an error below zero", has(-0.1, "layers", 0, "relative_error"), "relative_error=-0.1 must"
    ),
    Row("an error in words", has("low", "layers", 0, "norm_error"), "norm_error='low' must be"),
    Row("a layer of many norms", has(["full"], "layers", 0, "norm"), r"norm=\['full'\] must be a"),
    Row("a layer without bytes", has(0, "layers", 0, "dense_bytes"), "a layer without bytes is no"),
    Row("a layer without a name", has("", "layers", 0, "name"), r"layers\[0\].name='' must be"),
    Row("a layer that names its file", has("x", "layers", 0, "path"), "it names 'path' more than"),
    Row("skipped that is a text", has("none", "skipped"), "skipped must be a list of layers"),
    Row("nested without end", has(DEEP, "environment", "deep"), "is nested more than 50 times"),
    Row("no folder", lambda folder: store.load(folder / "x"), "there is no folder"),
    Row("a folder without records", store.load_layers, r"there is no record \(\*\*/\*.json\)"),
    Row("saved under another key", save(key="0" * 16), "is not the key of this record's config"),
    Row("saved with a list for a name", save(method=["svd"]), r"method=\['svd'\] must be"),
    Row("a config with a number for a name", lambda _: store.key({1: 2}), "must be a string"),
]

QUESTIONS = [
    Row(
        "no row", ask(lambda f: summarise(f, ["top1"]), lambda f: f.head(0)), "selection left none"
    ),
    Row(
        "two tasks", ask(one_comparison, lambda f: f.assign(task=["a", "b"])), "2 values of 'task'"
    ),
    Row(
        "two models",
        ask(one_comparison, lambda f: f.assign(model=["a", "b"])),
        "frame.model == 'a'",
    ),
    Row(
        "trained and untrained dense models",
        ask(one_comparison, lambda f: f.assign(dense_recovery=["none", "x"])),
        "mix 2 values of 'dense_recovery'",
    ),
    Row(
        "rows of two frames",
        ask(one_comparison, lambda f: f.set_axis([0, 0])),
        r"give frame.reset_index\(drop=True\)",
    ),
    Row("no row in two norms", ask(norm_table, lambda f: f.head(0)), "selection left none"),
    Row(
        "a page of nothing",
        ask(lambda f: explorer.page(f, f, {}, "none"), lambda f: f.head(0)),
        "selection left none",
    ),
    Row("a column that is not there", ask(lambda f: summarise(f, ["bleu"])), "hold no bleu: take"),
    Row("a mean of texts", ask(lambda f: summarise(f, ["family"])), "family is no measure"),
    Row(
        "a record twice", ask(lambda f: summarise(f, ["top1"]), twice), "has seed 0 more than once"
    ),
    Row(
        "two settings of one method",
        both(config(where={"first": True}), config(where={"first": False})),
        r"'svd' differ in where.first \(False, True\)",
    ),
    Row(
        "two ways to measure one point",
        both(config(measure={"batch_size": 1}), config(measure={"batch_size": 8})),
        r"at level 8.0 differ in measure.batch_size \(1, 8\)",
    ),
    Row(
        "no dense speedup", ask(lambda f: dense_baseline(f, "speedup_b1")), "no speedup_b1 of the d"
    ),
    Row(
        "a dense measure of nothing",
        ask(lambda f: dense_baseline(f, "top1"), of(dense_top1=None)),
        "hold no top1 of the dense model",
    ),
    Row("one norm", ask(in_several_norms), r"more than one norm \(found: identity\)"),
    Row("a table of one norm", ask(norm_table), "no family was compressed in more than one norm"),
    Row(
        "a size without columns", ask(lambda f: summary_table(f, "top1", "kl")), "size='kl' has no"
    ),
    Row(
        "a size that is not there",
        ask(lambda f: long_table(f.drop(columns="compression_ratio"))),
        "hold no compression_ratio",
    ),
    Row(
        "a measure that is not there", ask(lambda f: measure(f, "bleu")), "no column 'bleu' to draw"
    ),
    Row(
        "a close-up of nothing", ask(lambda f: plots.quality_curve(f, span=0)), "span=0 must be abo"
    ),
    Row("a close-up of NaN", ask(lambda f: plots.quality_curve(f, span=math.nan)), "span=nan must"),
    Row("a close-up without end", ask(lambda f: plots.quality_curve(f, span=math.inf)), "span=inf"),
    Row(
        "a figure of no speedup",
        ask(lambda f: plots.quality_curve(f, "speedup_b1"), of(speedup_b1=None)),
        "no record has both speedup_b1 and top1",
    ),
    Row(
        "a perplexity of zero",
        ask(
            lambda f: plots.quality_curve(f, y="perplexity"),
            of(perplexity=0.0, dense_perplexity=4.0, metrics=json.dumps(records.TEXT_METRICS)),
        ),
        "perplexity of 0 has no place on a logarithmic axis",
    ),
    Row("a figure of one norm", ask(lambda f: plots.norm_figure(f, y="top1")), "than one norm"),
    Row(
        "layers of a ratio that none reaches",
        layered(lambda layers: plots.layer_figure(layers, at=1000)),
        "no method makes the whole model 1000× smaller; the strongest reaches",
    ),
    Row(
        "layers of nothing", layered(lambda f: plots.layer_figure(f.head(0))), "selection left none"
    ),
    Row(
        "layers of two models",
        layered(lambda f: plots.layer_figure(f.assign(model=[f"m{i % 2}" for i in range(len(f))]))),
        "mix 2 values of 'model'",
    ),
    Row("spectra of nothing", drawn(), "no weight matrix"),
    Row("the spectrum of a vector", drawn(w=torch.ones(3)), r"w: .* shape \(3,\)"),
    Row("the spectrum of zeros", drawn(w=torch.zeros(2, 2)), "finite, non-zero matrix"),
    Row("the spectrum of NaN", drawn(w=torch.full((2, 2), math.nan)), "4 values that are NaN"),
    Row(
        "break-even of nothing", lambda _: plots.break_even(EVEN.head(0)), "nothing to draw: 0 rows"
    ),
    Row(
        "break-even of a family of one's own",
        lambda _: plots.break_even(EVEN.assign(family="dense")),
        r"families not known \['dense'\]",
    ),
]

REPORTS = [
    Row("an option that is none", option(metrc="top1"), "no option 'metrc': there are experiment"),
    Row("a metric that is a list", option(metric=["top1"]), r"metric=\['top1'\] must be the name"),
    Row("a metric that is empty", option(metric=""), "metric='' must be the name of a column"),
    Row("a size that is a number", option(size=3), "size=3 must be the name of a column"),
    Row("a close-up that is a word", option(close_up="yes"), "close_up='yes' must be a number abo"),
    Row("a close-up that is a switch", option(close_up=True), "close_up=True must be a number"),
    Row("layers at many", option(layers_at="many"), "layers_at='many' must be a number above 0"),
    Row("layers below zero", option(layers_at=-2), "layers_at=-2 must be"),
    Row("layers at NaN", option(layers_at=math.nan), "layers_at=nan must be"),
    Row("spectra of a number", option(spectra=2), "spectra=2 must be true or false"),
    Row("runs that are null", option(runs=None), "runs=None must be a text"),
    Row("runs that are many", option(runs=["a", "b"]), r"runs=\['a', 'b'\] must be a text"),
    Row("runs that are a file", a_file(runs="FOLDER/file"), "/file is a file: give the folder of"),
    Row("out that is a mapping", option(out={"a": 1}), r"out=\{'a': 1\} must be a text"),
    Row(
        "out that refers to nothing", option(out="${nowhere}"), "Interpolation key 'nowhere' not f"
    ),
    Row("out that is to be given", option(out="???"), "Missing mandatory value: out"),
    Row(
        "out that leads elsewhere", linked("figures"), "figures is a link to .*elsewhere: give out="
    ),
    Row("a link in out", linked("figures/a-b.md"), "a-b.md is a link to a file elsewhere: remove"),
    Row(
        "a measure that none has", shown(metric="perplexity"), "no record holds metric=perplexity: "
    ),
    Row(
        "a measure of the other split",
        shown(metric="validation_top1"),
        "metric=validation_top1 is measured on the validation split, .* so give metric=top1",
    ),
    Row("a label for a measure", shown(metric="task"), "metric=task: there are top1, top5"),
    Row(
        "records of sizes alone", unmeasured, "no record holds a measure of quality: there are none"
    ),
    Row("a size for a measure", shown(metric="bytes"), "metric=bytes: there are"),
    Row(
        "a size that none has", shown(size="layers_bits_per_weight"), "hold no layers_bits_per_weig"
    ),
    Row("a label for a size", shown(size="model"), "model is no measure"),
    Row("a measure for a size", shown(size="loss"), "size='loss' has no columns"),
    Row(
        "a tracker that is nowhere",
        lambda folder: WandbTracker("local", "x", str(folder)),
        "mode='local' must be online or offline",
    ),
]

TIMES = [
    Row("timed for no time", timed(seconds=0), "seconds=0 must be above 0"),
    Row("timed for less than none", timed(seconds=-1.0), "seconds=-1.0 must be above 0"),
    Row("timed for NaN", timed(seconds=math.nan), "seconds=nan must be above 0"),
    Row("timed on no thread", timed(threads=0), "threads=0 at least 1"),
    Row("timed on a bare tensor", timed(example=torch.zeros(2, 2)), "must be a non-empty tuple"),
    Row("timed on nothing", timed(example=()), "must be a non-empty tuple"),
    Row("pairs that are none", lambda _: paired_speedup([1.0, 2.0], [1.0]), "2 and 1 times are no"),
    Row("no pair", lambda _: paired_speedup([], []), "0 and 0 times are no pairs"),
]

ROWS = [*RECORDS, *QUESTIONS, *REPORTS, *TIMES]
