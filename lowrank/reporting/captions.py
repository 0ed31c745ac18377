"""Captions and titles of tables and figures."""

from __future__ import annotations

from typing import Any

from lowrank.metrics.metric import Metric
from lowrank.records.repeats import is_timed
from lowrank.reporting.curves import dense_baseline

# Text of a caption on a recovery that the dense model did not have, by whether it tunes.
OWN = {
    False: "corrected on calibration data, the dense model left as it is",
    True: "tuned on calibration data toward the dense model, which is left as it is",
}
# From this share on nearly all of a model is compressed, and captions do not state it.
NEARLY_ALL = 0.995


def title(frame: Any) -> str:
    """The task, model and recovery of a comparison."""
    first = frame.iloc[0]
    both = first["dense_recovery"]
    recovery = "without recovery" if both == "none" else f"after {both}"
    return f"{first['task']}, {first['model']}, {recovery}"


def subject(frame: Any) -> str:
    """The title with what recoveries of their own are, and the dtype of the dense model."""
    pairs: Any = frame[["recovery", "tuned"]].drop_duplicates()
    own = pairs[pairs["recovery"] != frame.iloc[0]["dense_recovery"]].sort_values("recovery")
    named = [f"“+ {name}”: {OWN[bool(tuned)]}" for name, tuned in own.to_numpy().tolist()]
    recoveries = f" ({'; '.join(named)})" if named else ""
    dtype = dense_dtype(frame)
    return f"{title(frame)}{recoveries}{f', {dtype}' if dtype else ''}"


def dense_dtype(frame: Any) -> str:
    """The dtype in which the dense model is counted; empty if that is on no record."""
    named = set(frame["dense_dtype"].dropna()) - {""} if "dense_dtype" in frame else set()
    return f"dense in {' or '.join(sorted(named))}" if named else ""


def coverage(frame: Any) -> str:
    """The share of the model in compressed weights; empty if nearly all, or on no record."""
    shares = frame["coverage"].dropna() if "coverage" in frame else []
    if not len(shares) or min(shares) >= NEARLY_ALL:
        return ""
    ends = dict.fromkeys((share(min(shares)), share(max(shares))))
    return f"{' to '.join(ends)} % of the model's parameters lie in compressed weights"


def share(part: float) -> str:
    """A share in percent; only the whole is 100."""
    text = f"{100 * part:.3g}"
    return "99.9" if text == "100" and part < 1 else text


def in_unit(shown: Metric) -> str:
    """The name of the metric that a table shows, with its unit."""
    return f"{shown.words}{' in %' if shown.scale == 'percent' else ''}"


def over_seeds(points: Any) -> str:
    """A sentence on the number of seeds behind each mean of a table."""
    own = points[(points["seeds"] > 1) | (points["repeats"] == 1)]["seeds"]
    said = ""
    if len(own):
        several = f"Mean ± sample standard deviation over {_range(own)} seeds."
        said = several if own.max() > 1 else "One seed, so no spread."
    return f"{said}{sentence(same_numbers(points))}".strip()


def same_numbers(points: Any) -> str:
    """A note on seeds that gave the same numbers; empty if all gave distinct ones."""
    alike = points[points["repeats"] > points["seeds"]]
    if alike.empty:
        return ""
    timed = any(is_timed(name) and not all(points[name].isna()) for name in points)
    where = "" if len(alike) == len(points) else f" at {len(alike)} of {len(points)} points"
    return (
        f"{_range(alike['repeats'])} seeds gave the same numbers: counted once{where}"
        f"{', but for times' if timed else ''}"
    )


def counted(seeds: int, repeats: int) -> str:
    """The number of distinct seeds, of all seeds."""
    return f"{seeds}" if seeds == repeats else f"{seeds} of {repeats}"


def with_error(shown: Metric, mean: float, spread: float, error: float, *more: str) -> str:
    """A number with its spread over seeds, and in brackets its error over examples and `more`."""
    brackets = [f"se {shown.text(error)}"] if mean == mean and error == error else []
    brackets += more
    text = shown.text(mean, spread)
    return f"{text} ({', '.join(brackets)})" if brackets else text


def dense_words(frame: Any, metric: str, shown: Metric, error: float = float("nan")) -> str:
    """A sentence on the dense model's quality, and on the whole test split if that is another.

    Args:
        error: its standard error over examples.
    """
    whole = f"whole_test_{metric}"
    text = with_error(shown, *dense_baseline(frame, metric), error)
    if f"dense_{whole}" in frame and not all(frame[f"dense_{whole}"].isna()):
        text += (
            f"; with the part of the test data that is validation: "
            f"{shown.text(*dense_baseline(frame, whole))}"
        )
    return f"Dense model: {text}."


def sentence(text: str) -> str:
    """Words as a sentence to follow another; empty stays empty."""
    return f" {text[0].upper()}{text[1:]}." if text else ""


def _range(counts: Any) -> str:
    fewest, most = counts.min(), counts.max()
    return f"{most}" if fewest == most else f"{fewest} to {most}"
