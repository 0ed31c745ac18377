"""A metric: its titles, its scale and its direction (higher or lower is better)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal, get_args

from lowrank.numerics.checks import check_flag, check_number, check_one_of

# How numbers read, and the axis that they get: `ratio` as 2×, `bits` and `log` on logarithmic axes
# with plain numbers, `percent` for shares, `whole` for counts.
Scale = Literal["plain", "percent", "whole", "ratio", "bits", "log"]

DIGITS: Mapping[Scale, int] = {
    **{"plain": 3, "percent": 2, "whole": 0},
    **{"ratio": 2, "bits": 2, "log": 3},
}
# What follows a size: in the name of a column of CSV, and in text.
UNITS: Mapping[str, tuple[str, str]] = {"ratio": ("x", "×"), "bits": (" bits", " bits")}
LONGEST = 200
# The square of a number on record is one too, as a standard deviation takes it.
LARGEST = 1e150
# The share of a value by which two are alike: as many right answers, in single precision.
ROUNDING = 1e-6

# How a metric follows from single examples: the weighted mean of their values, or exp of it.
Average = Literal["mean", "exp"]

NONE = "–"


@dataclass(frozen=True)
class Metric:
    """The description of a measure of a model.

    Args:
        name: on the record.
        title: for an axis, with unit and scope; lines are apart.
        heading: for the column of a table.
        scale: how its numbers read.
        higher_is_better: as of an accuracy or a compression ratio, and not of a loss.
        dense: what the dense model has by definition, if this says how far a model is from it.
        chance: what a model has that guesses, if that is known.
        minor: whether it stays out of tables with all points, as a loss beside an accuracy.
        average: ``mean`` if it is the mean of a value of each example, weighted by the predictions
            of the example, ``exp`` if it is exp of such a mean (perplexity); None if it is neither
            (macro F1). Where it is given, `Task.outcomes` or `Task.agreement` gives the values.

    Raises:
        ValueError: a text that is none, is empty or is not printable; an unknown scale or average;
            or a value that is no number.
    """

    name: str
    title: str
    heading: str
    scale: Scale = "plain"
    higher_is_better: bool = True
    dense: float | None = None
    chance: float | None = None
    minor: bool = False
    average: Average | None = None

    def __post_init__(self) -> None:
        for field in ("name", "title", "heading"):
            text = getattr(self, field)
            lines = text.split("\n") if field == "title" and isinstance(text, str) else [text]
            if not all(isinstance(line, str) and line and line.isprintable() for line in lines):
                raise ValueError(f"{field}={text!r:.80} of a metric must be a printable text")
            if len(text) > LONGEST:
                raise ValueError(f"{field}={text!r:.80} of a metric is above {LONGEST} letters")
        try:
            check_one_of("scale", self.scale, get_args(Scale))
            check_flag("higher_is_better", self.higher_is_better)
            check_flag("minor", self.minor)
            if self.average is not None:
                check_one_of("average", self.average, get_args(Average))
            for field in ("dense", "chance"):
                _check_value(field, getattr(self, field))
        except ValueError as error:
            raise ValueError(f"metric {self.name!r}: {error}") from error

    @property
    def words(self) -> str:
        """The title on one line."""
        return " ".join(self.title.split())

    def on(self, split: str) -> Metric:
        """The metric of another split, such as ``validation``, if its title says "test split"."""
        return replace(self, title=self.title.replace("test split", f"{split} split"))

    @property
    def sign(self) -> int:
        """1 if higher is better, else −1: values times this are better when larger."""
        return 1 if self.higher_is_better else -1

    def as_good(self, value: Any, best: Any) -> Any:
        """Whether a value, or each of an array, is as good as the best; False for NaN.

        Up to rounding: means of the same numbers in another order or precision differ in the last
        digits, and are no better and no worse.
        """
        return self.sign * value >= self.sign * best - ROUNDING * abs(best)

    def text(self, mean: float, spread: float = float("nan")) -> str:
        """A number for a table, with its standard deviation if there is one; a dash for NaN."""
        if mean != mean:
            return NONE
        factor = 100 if self.scale == "percent" else 1
        digits = DIGITS[self.scale]
        if self.scale == "log":  # The decimals of an exploded value mean nothing.
            digits = 3 if abs(mean) < 100 else 1 if abs(mean) < 1000 else 0
        text = f"{factor * mean:.{digits}f}"
        return text if spread != spread else f"{text} ± {factor * spread:.{digits}f}"


def read_metrics(values: Any, place: str) -> tuple[Metric, ...]:
    """The metrics that a list of plain mappings says, as `dataclasses.asdict` makes them.

    Raises:
        ValueError: it is no such list, is empty, or names a metric twice; the text says where.
    """
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{place} must be a list of metrics, the first that by which is judged")
    metrics = tuple(_read(value, f"{place}[{index}]") for index, value in enumerate(values))
    check_names(metrics, place)
    return metrics


def check_names(metrics: Sequence[Metric], place: str) -> None:
    """Raise ValueError if two metrics have one name."""
    names = [metric.name for metric in metrics]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{place} has {', '.join(map(repr, twice))} more than once")


def _read(value: Any, place: str) -> Metric:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} must be a mapping of fields, not {value!r:.60}")
    known = [field.name for field in fields(Metric)]
    unknown = [name for name in value if name not in known]
    if unknown:
        raise ValueError(f"{place} has no field {unknown[0]!r:.60}: there are {', '.join(known)}")
    missing = [
        field.name
        for field in fields(Metric)
        if field.default is MISSING and field.name not in value
    ]
    if missing:
        raise ValueError(f"{place} lacks {', '.join(missing)}")
    try:
        return Metric(**value)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _check_value(name: str, value: object) -> None:
    if value is not None:
        check_number(name, value, f"lie within ±{LARGEST:g}", lambda x: abs(x) < LARGEST)
