"""Figures of what compression does inside of a model; see `lowrank.inspection`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import torch
from torch import Tensor

from lowrank.reporting.fidelity.losses import loss_changes
from lowrank.reporting.plots.spectra import singular_values
from lowrank.reporting.plots.style import COLOURS, COLUMN, DENSE, PAGE, RC
from lowrank.reporting.plots.text import ending, wrapped
from lowrank.reporting.plots.ticks import set_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lowrank.inspection.directions import DirectionDrops
    from lowrank.inspection.similarity import LayerSimilarity
    from lowrank.records.outcomes import Outcomes

P = ParamSpec("P")

# Panels in a figure at most, and positions in a map of attention.
MOST_PANELS = 12
SHOWN_POSITIONS = 48
LONGEST_NAME = 2.2
# Without the grid, which would lie over the pixels.
IMAGES = RC | {"axes.grid": False}


def _in_style(
    rc: dict[Any, Any],
) -> Callable[[Callable[P, Figure]], Callable[P, Figure]]:
    """A decorator of functions that draw a figure, with the settings `rc`."""

    def decorate(draw: Callable[P, Figure]) -> Callable[P, Figure]:
        @wraps(draw)
        def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
            import matplotlib

            with matplotlib.rc_context(rc):
                return draw(*args, **kwargs)

        return drawn

    return decorate


@_in_style(RC)
def kept_spectra(
    dense: Mapping[str, Tensor], compressed: Mapping[str, Tensor], title: str = ""
) -> Figure:
    """The singular values of each dense weight, and of what stands in its place: a panel each.

    Values are over the largest of the dense weight, against their index over min(out, in). Those of
    the compressed weight that are rounding only are not drawn, so a low rank ends.

    Args:
        dense, compressed: by layer, matrices (out, in). Of more than `MOST_PANELS` layers that
            changed so many are drawn, spread over the depth, and the title says so; of layers none
            of which changed too.

    Raises:
        ValueError: no layer is in both, or a dense matrix is zero or not finite.
    """
    held = [name for name in dense if name in compressed]
    held = [name for name in held if not torch.equal(dense[name], compressed[name])] or held
    count = min(MOST_PANELS, len(held))
    names = [held[round(place)] for place in np.linspace(0, len(held) - 1, count)]
    if count < len(held):
        title = f"{title}\n{count} of {len(held)} layers".strip()
    figure, panels = _panels(count, title, 1.5)
    for axes, name in zip(panels, names, strict=True):
        own, other = singular_values(name, dense[name]), compressed[name].cpu().double()
        kept = torch.linalg.svdvals(other)
        places = torch.arange(1, len(own) + 1) / len(own)
        large = kept > 1e-6 * own[0]
        axes.plot(places, own / own[0], color=DENSE, linestyle=(0, (6, 2)), label="dense")
        axes.plot(places[large], kept[large] / own[0], color=COLOURS[1], label="compressed")
        set_axis(axes.yaxis, "log", (max(1e-5, float(own[-1] / own[0]) / 2), 1.3))
        axes.set_xlim(0, 1.02)
        axes.set_title(ending(name, 1.4, 7), fontsize=7)
    figure.supxlabel("index of singular value / min(out, in)", fontsize=8)
    figure.supylabel("value / largest of the dense", fontsize=8)
    panels[0].legend(loc="lower left")
    return figure


@_in_style(RC)
def similarity_figure(found: LayerSimilarity, title: str = "") -> Figure:
    """The debiased linear CKA of each layer's outputs, dense beside compressed: 1 is alike.

    Args:
        found: of `lowrank.inspection.layer_similarity`.

    Raises:
        ValueError: there is no layer.
    """
    similarity = found.cka
    height = 0.9 + 0.16 * max(4, len(similarity))
    figure, (axes,) = _panels(min(1, len(similarity)), title, height, PAGE * 0.75)
    places = range(len(similarity))
    axes.hlines(places, 0, list(similarity.values()), color="0.8", linewidth=1)
    axes.plot(list(similarity.values()), places, "o", color=COLOURS[0])
    axes.set_yticks(places, [ending(name, LONGEST_NAME, 7) for name in similarity])
    axes.set_ylim(len(similarity) - 0.5, -0.5)
    axes.set_xlim(min(0.0, *similarity.values()) - 0.02, 1.02)
    axes.set_xlabel("debiased linear CKA, dense and compressed")
    return figure


@_in_style(IMAGES)
def direction_figure(found: DirectionDrops, title: str = "") -> Figure:
    """The fall of each class's logit without each singular direction: a heat map.

    Args:
        found: of `lowrank.inspection.direction_drops`.
    """
    count, classes = found.drops.shape
    size = 1.3 + 0.24 * count
    figure, (axes,) = _panels(1, title, size, max(COLUMN, 1.6 + 0.38 * classes))
    largest = max(float(found.drops.abs().max()), 1e-12)
    image = axes.imshow(
        found.drops.numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto"
    )
    axes.set_xticks(range(classes), [str(one) for one in found.classes])
    axes.set_yticks(range(count), [f"{i + 1} (σ = {s:.3g})" for i, s in enumerate(found.sigma)])
    axes.set_xlabel("class or token")
    first = f", first {count} of {found.rank}" if count < found.rank else ""
    axes.set_ylabel(f"direction of {ending(found.layer, LONGEST_NAME, 8)}{first}")
    _bar(figure, image, [axes], "fall of the right logit")
    return figure


@_in_style(IMAGES)
def mask_figure(kept: Tensor, title: str = "", most: int = 24) -> Figure:
    """Where the first layer keeps its weights: the share over all units, and the first units.

    Args:
        kept: bool (units, height, width), of `lowrank.inspection.kept_images`.
        most: units that are drawn at most, those that keep the most.

    Raises:
        ValueError: there is no unit.
    """
    order = kept.flatten(1).sum(dim=1).argsort(descending=True, stable=True)[:most]
    figure, panels = _panels(1 + len(order) if len(kept) else 0, title, 0.75, PAGE, 9)
    shares = kept.double().mean(dim=0)
    image = panels[0].imshow(shares.numpy(), cmap="viridis", vmin=0)
    panels[0].set_title("share", fontsize=6, pad=2)
    for axes, unit in zip(panels[1:], order.tolist(), strict=True):
        axes.imshow(kept[unit].numpy(), cmap="Greys", vmin=0, vmax=1)
        axes.set_title(f"unit {unit}: {int(kept[unit].sum())}", fontsize=6, pad=2)
    for axes in panels:
        axes.set(xticks=[], yticks=[])
        axes.spines[["top", "right"]].set_visible(True)
    _bar(figure, image, panels, "share of units that keep it")
    return figure


@_in_style(IMAGES)
def heads_figure(kept: Mapping[str, Tensor], title: str = "") -> Figure:
    """The share of weights kept in each head of attention: a row for each layer.

    Args:
        kept: of `lowrank.inspection.kept_of_heads`.

    Raises:
        ValueError: there is no layer.
    """
    heads = max((len(one) for one in kept.values()), default=0)
    height = 1.0 + 0.16 * len(kept)
    figure, (axes,) = _panels(min(1, len(kept)), title, height, PAGE * 0.75)
    values = torch.full((len(kept), heads), float("nan"), dtype=torch.float64)
    for row, shares in enumerate(kept.values()):
        values[row, : len(shares)] = shares
    image = axes.imshow(values.numpy(), cmap="viridis", vmin=0, aspect="auto")
    axes.set_xticks(range(heads), [str(head) for head in range(heads)])
    axes.set_yticks(range(len(kept)), [ending(name, LONGEST_NAME, 7) for name in kept])
    axes.set_xlabel("head")
    _bar(figure, image, [axes], "share of weights kept")
    return figure


@_in_style(IMAGES)
def attention_figure(
    dense: Sequence[Tensor], compressed: Sequence[Tensor], title: str = "", most: int = 4
) -> Figure:
    """Attention maps of layers on one example, the mean over the heads: dense above compressed.

    Of longer examples the first `SHOWN_POSITIONS` are drawn.

    Colours have the scale of a square root, so that weak attention shows.

    Args:
        dense, compressed: of `lowrank.inspection.attention_maps` on the same example.
        most: layers that are drawn, spread over the depth.

    Raises:
        ValueError: the two do not have the same layers and positions.
    """
    if [one.shape[1:] for one in dense] != [one.shape[1:] for one in compressed] or not dense:
        raise ValueError("attention maps must be of the same layers, on the same example")
    count = min(most, len(dense))
    layers = torch.linspace(0, len(dense) - 1, count).round().int().tolist()
    figure, panels = _panels(2 * count, title, PAGE / max(count, 3), PAGE, count)
    image: Any = None
    for row, (word, maps) in enumerate((("dense", dense), ("compressed", compressed))):
        for column, layer in enumerate(layers):
            axes = panels[row * count + column]
            shown = maps[layer].mean(dim=0)[:SHOWN_POSITIONS, :SHOWN_POSITIONS]
            image = axes.imshow(shown.sqrt().numpy(), cmap="magma", vmin=0, vmax=1)
            axes.set_title(f"{word}, layer {layer}")
            axes.set(xlabel="key" if row else "", ylabel="" if column else "query")
    _bar(figure, image, panels, "√attention")
    return figure


@_in_style(RC)
def token_figure(outcomes: Outcomes, title: str = "") -> Figure:
    """The change of the loss by groups of the predictions, such as rare tokens and late positions,
    with standard errors over the examples: a panel for each breakdown.

    Args:
        outcomes: of a point, as `lowrank.measure_point` gives them and a record has them beside it.

    Raises:
        ValueError: the task breaks its loss down by nothing.
    """
    if not outcomes.breakdowns:
        raise ValueError("the outcomes break no loss down by groups of predictions")
    figure, panels = _panels(len(outcomes.breakdowns), title, 2.2)
    for axes, breakdown in zip(panels, outcomes.breakdowns.values(), strict=True):
        changes = loss_changes(breakdown, outcomes.examples)["change"]
        values = [one.value for one in changes.values()]
        errors = [one.error for one in changes.values()]
        axes.errorbar(range(len(values)), values, errors, color=COLOURS[0], fmt="o", capsize=2)
        axes.axhline(0, color=DENSE, linewidth=0.8)
        axes.set_xticks(range(len(values)), list(changes), rotation=45, ha="right")
        axes.set_xlabel(breakdown.title)
    panels[0].set_ylabel("loss, compressed − dense (nats)")
    return figure


def _panels(
    count: int, title: str, height: float, width: float = PAGE, columns: int = 4
) -> tuple[Figure, list[Any]]:
    """A figure with `count` panels, each row `height` inches high."""
    from matplotlib.figure import Figure

    if not count:
        raise ValueError("there is no layer that could be drawn")
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, rows * height + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes in panels[count:]:
        axes.remove()
    if title:
        figure.suptitle(wrapped(title, width - 0.3), fontsize=8)
    return figure, panels[:count]


def _bar(figure: Figure, image: Any, axes: list[Any], label: str) -> None:
    bar = figure.colorbar(image, ax=axes, aspect=30, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]
