"""Scales and ticks of axes for ratios, bits, shares and logarithmic measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lowrank.metrics.metric import Scale

if TYPE_CHECKING:
    from matplotlib.axis import XAxis, YAxis

RATIO_TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)
BITS_TICKS = (0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 6, 8, 12, 16, 24, 32, 64)


def set_axis(axis: XAxis | YAxis, scale: Scale, values: Sequence[float]) -> None:
    """Ticks for numbers that read as `scale` says, and the limits where it is logarithmic.

    Args:
        values: of a ratio or of bits what is shown; of a logarithmic scale the limits.
    """
    setters = {
        "ratio": _set_ratio_axis,
        "bits": _set_bits_axis,
        "percent": _set_percent_axis,
        "log": _set_log_axis,
    }
    if scale in setters:
        setters[scale](axis, values)


def _set_ratio_axis(axis: XAxis | YAxis, values: Sequence[float]) -> None:
    """Log2 with ticks 1×, 2×, 4×, …, as many as `values` reach, and at least one doubling."""
    _set_doublings(axis, values, {tick: f"{tick:g}×" for tick in RATIO_TICKS})


def _set_bits_axis(axis: XAxis | YAxis, values: Sequence[float]) -> None:
    """Log2 with ticks 2, 3, 4, 6, 8, …"""
    _set_doublings(axis, values, {tick: f"{tick:g}" for tick in BITS_TICKS})


def _set_doublings(
    axis: XAxis | YAxis, values: Sequence[float], ticks: Mapping[float, str]
) -> None:
    low, high = min(values), max(values)
    low, high = min(low, high / 2) / 1.12, max(high, low * 2) * 1.12
    _set_log(axis, low, high, base=2)
    shown = {tick: text for tick, text in ticks.items() if low <= tick <= high}
    axis.set_ticks(list(shown), labels=list(shown.values()))


def _set_percent_axis(axis: XAxis | YAxis, values: Sequence[float]) -> None:
    """Ticks in percent with the digits that they need, and no zeros after them."""
    # A function, which matplotlib takes as it is.
    axis.set_major_formatter(lambda value, _: f"{100 * value:.5g}%")


def _set_log_axis(axis: XAxis | YAxis, values: Sequence[float]) -> None:
    """Logarithmic, with plain numbers as ticks: 5, 10, 20, 50, …, or finer on a short axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = min(values), max(values)
    _set_log(axis, low, high, base=10)
    fine = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10])
    coarse = LogLocator(subs=(1, 2, 5) if high / low < 2000 else (1,))
    axis.set_major_locator(fine if high / low < 4 else coarse)
    axis.set_major_formatter(lambda value, _: f"{value:,.6g}")


def _set_log(axis: XAxis | YAxis, low: float, high: float, base: float) -> None:
    from matplotlib.ticker import NullLocator

    across = axis.axis_name == "x"
    (axis.axes.set_xscale if across else axis.axes.set_yscale)("log", base=base)
    (axis.axes.set_xlim if across else axis.axes.set_ylim)(low, high)
    axis.set_minor_locator(NullLocator())
