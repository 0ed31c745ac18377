"""What the columns of the records mean: their names for people, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

# How numbers read, and the axis that they get: `ratio` as 2×, `bits` and `log` on logarithmic axes
# with plain numbers, `percent` for shares, `whole` for counts.
Scale = Literal["plain", "percent", "whole", "ratio", "bits", "log"]

DIGITS: Mapping[Scale, int] = {
    **{"plain": 3, "percent": 2, "whole": 0},
    **{"ratio": 2, "bits": 2, "log": 3},
}

NONE = "–"


@dataclass(frozen=True)
class Measure:
    """What a column holds.

    Attributes:
        title: for an axis, with unit and scope.
        heading: for the column of a table.
        scale: how its numbers read.
        higher_is_better: as of an accuracy or a compression ratio, and not of a loss.
        dense: what the dense model has by definition, if this says how far a model is from it.
    """

    title: str
    heading: str
    scale: Scale = "plain"
    higher_is_better: bool = True
    dense: float | None = None

    @property
    def words(self) -> str:
        """The title on one line."""
        return " ".join(self.title.split())

    @property
    def sign(self) -> int:
        """What to multiply values with so that more is better."""
        return 1 if self.higher_is_better else -1

    def text(self, mean: float, spread: float = float("nan")) -> str:
        """A number for a table, with its standard deviation if there is one; a dash for NaN."""
        if mean != mean:
            return NONE
        factor = 100 if self.scale == "percent" else 1
        digits = DIGITS[self.scale]
        if self.scale == "log":  # Of an exploded perplexity nobody reads the decimals.
            digits = 3 if abs(mean) < 100 else 1 if abs(mean) < 1000 else 0
        text = f"{factor * mean:.{digits}f}"
        return text if spread != spread else f"{text} ± {factor * spread:.{digits}f}"


# The one place that says which way is better.
MEASURES: Mapping[str, Measure] = {
    # What a compressed model costs
    "compression_ratio": Measure(
        "compression ratio\n(whole model, dense bytes / compressed bytes)",
        "compression ratio",
        "ratio",
    ),
    "body_compression_ratio": Measure(
        "compression ratio\n(without embeddings and head, dense / compressed bytes)",
        "compression ratio of the body",
        "ratio",
    ),
    "layers_compression_ratio": Measure(
        "compression ratio\n(compressed layers, dense bytes / compressed bytes)",
        "compression ratio of the layers",
        "ratio",
    ),
    "layers_bits_per_weight": Measure(
        "bits per weight\n(compressed layers, all stored bits / weights)",
        "bits per weight",
        "bits",
        higher_is_better=False,
    ),
    "param_ratio": Measure(
        "parameter ratio\n(whole model, dense params / compressed params)", "param ratio", "ratio"
    ),
    "layers_param_ratio": Measure(
        "parameter ratio\n(compressed layers, dense params / compressed params)",
        "param ratio of the layers",
        "ratio",
    ),
    "theoretical_speedup": Measure(
        "theoretical speedup\n(one example, dense MACs / compressed MACs)",
        "theoretical speedup",
        "ratio",
    ),
    "trainable_ratio": Measure(
        "ratio of trainable parameters\n(whole model, dense / compressed)",
        "ratio of trainable params",
        "ratio",
    ),
    "trainable_params": Measure(
        "trainable parameters", "trainable params", "whole", higher_is_better=False
    ),
    "trainable_bytes": Measure(
        "bytes of trainable parameters", "trainable bytes", "whole", higher_is_better=False
    ),
    "coverage": Measure("share of the parameters in compressed weights", "coverage (%)", "percent"),
    # How good it is
    "top1": Measure("top-1 accuracy (test split)", "top-1 (%)", "percent"),
    "top5": Measure("top-5 accuracy (test split)", "top-5 (%)", "percent"),
    "macro_recall": Measure("macro recall (test split)", "macro recall (%)", "percent"),
    "token_accuracy": Measure(
        "accuracy of the next token (test split)", "token accuracy (%)", "percent"
    ),
    "macro_f1": Measure("macro F1 (test split)", "macro F1 (%)", "percent"),
    "perplexity": Measure(
        "perplexity (test split, per token)", "perplexity", "log", higher_is_better=False
    ),
    "word_perplexity": Measure(
        "perplexity (test split, per word)", "word perplexity", "log", higher_is_better=False
    ),
    "bits_per_byte": Measure(
        "bits per byte of text (test split)", "bits per byte", higher_is_better=False
    ),
    "loss": Measure("loss (test split, mean per prediction)", "loss", higher_is_better=False),
    # How far it is from the dense model
    "cosine": Measure(
        "mean cosine to the dense model's embeddings\n(test split)", "cosine", dense=1.0
    ),
    "flipped": Measure(
        "share of predictions that differ\nfrom the dense model's (test split)",
        "flipped (%)",
        "percent",
        higher_is_better=False,
        dense=0.0,
    ),
    "kl": Measure(
        "KL(dense ‖ compressed)\n(test split, nats per prediction)",
        "KL (nats)",
        higher_is_better=False,
        dense=0.0,
    ),
}


def level_text(level: float | None) -> str:
    """A level for people; a dash where a method has none."""
    return NONE if level is None or level != level else f"{level:g}"


# What tasks of classes and of language judge by; others by the first that they measure.
PRIMARY = ("top1", "perplexity")


def primary_measure(measured: Iterable[str]) -> str:
    """The one of a model's measures, in the order of its record, to be shown first."""
    names = list(measured)
    return next((name for name in PRIMARY if name in names), names[0])


# Where less of a model is compressed, its size as a whole says little of a method.
MOSTLY = 0.9


def usual_size(frame: pd.DataFrame) -> str:
    """What records are shown against if nothing is asked for: ``compression_ratio``, or bits.

    ``layers_bits_per_weight`` where most of them compressed less than 90 % of a model. (Of a sweep
    over all layers, the weakest levels may leave a layer dense.)
    """
    bits = "layers_bits_per_weight"
    if "coverage" not in frame or bits not in frame or all(frame[bits].isna()):
        return "compression_ratio"
    return bits if float(frame["coverage"].median()) < MOSTLY else "compression_ratio"  # type: ignore


def measure(frame: pd.DataFrame, column: str) -> Measure:
    """What a column holds. A measured speedup says on what it was measured.

    A measure that is not known here is shown as it is, and its title says that more of it is taken
    as better.

    Raises:
        ValueError: the frame has no such column.
    """
    if column not in frame:
        raise ValueError(f"the records hold no column {column!r} to draw")
    if column in MEASURES:
        return MEASURES[column]
    batch = column.removeprefix("speedup_b")
    if f"latency_b{batch}_device" in frame:
        device, threads, dtype = (
            "/".join(map(_text, frame[f"latency_b{batch}_{name}"].dropna().unique()))
            for name in ("device", "threads", "dtype")
        )
        return Measure(
            f"measured speedup (dense / compressed time)\nbatch {batch}, {device}, "
            f"{threads} thread{'' if threads == '1' else 's'}, {dtype}",
            f"speedup, batch {batch}",
            "ratio",
        )
    return Measure(f"{column} (more is taken as better)", column)


def _text(value: Any) -> str:
    # Beside records that lack it a whole number is read as a fraction.
    return f"{value:g}" if isinstance(value, float) else str(value)
