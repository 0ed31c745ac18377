"""The figure of the singular values of weights, and the least error of a truncated SVD of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowrank.reporting.plots.style import PAGE, RC
from lowrank.reporting.plots.text import INCH, shortened, width, wrapped
from lowrank.reporting.plots.ticks import set_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Up to this many matrices have names in the legend; more are coloured by depth on a colour scale.
MOST_NAMES = 12
# Of a matrix, in inches.
LONGEST_NAME = 2.0


def spectra(matrices: Mapping[str, Tensor], title: str = "") -> Figure:
    """The singular values of each matrix, and what a truncated SVD of it costs and keeps.

    Left: singular values over the largest one against their index over min(out, in), log scale.
    Right: the smallest relative error that any matrix of rank r has (the norm of the discarded
    singular values over that of all) against the parameters of its two factors over those of the
    matrix, r·(out + in) / (out·in). Right of the line at 1 factoring makes the matrix bigger. Where
    a curve is still high at 1, the matrix has no low rank to find.

    Args:
        matrices: name → finite matrix (out, in), not zero; in the order of the model.
        title: of which model they are.

    Raises:
        ValueError: there is no matrix, or one is not a finite, non-zero matrix.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if not matrices:
        raise ValueError("there is no weight matrix whose spectrum could be drawn")
    values = {name: singular_values(name, matrix) for name, matrix in matrices.items()}
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(PAGE, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        shades = matplotlib.colormaps["viridis"]
        for index, (name, sigma) in enumerate(values.items()):
            out, into = matrices[name].shape
            depth = index / max(1, len(values) - 1)
            look = {"color": shades(0.92 * depth), "linewidth": 1.0, "label": name}
            look["gid"] = "spectrum"
            if len(values) <= MOST_NAMES:
                look["linestyle"] = ("-", "--", "-.", ":")[index % 4]
            ranks = torch.arange(1, len(sigma) + 1)
            left.plot(ranks / len(sigma), sigma / sigma[0], **look)
            right.plot(ranks * (out + into) / (out * into), best_errors(sigma), **look)
        # Below float32's own precision a singular value is rounding, not spectrum.
        least = max(1e-7, min(float(s[-1] / s[0]) for s in values.values()) / 2)
        set_axis(left.yaxis, "log", (least, 1.3))
        left.set_xlim(0, 1)
        left.set_xlabel("index of singular value / min(out, in)")
        left.set_ylabel("singular value / largest")
        right.axvline(1, color="0.35", linewidth=0.9, linestyle=(0, (6, 2)), gid="dense")
        right.set_xlim(0)
        right.set_ylim(0, 1)
        right.set_xlabel("params of the factors / params of the matrix")
        right.set_ylabel("least relative error ‖W − Ŵ‖ / ‖W‖")
        _name(figure, list(values))
        figure.suptitle(wrapped(title, PAGE - 0.3), fontsize=RC["axes.titlesize"])
    return figure


def singular_values(name: str, matrix: Tensor) -> Tensor:
    """Singular values in float64, descending.

    Raises:
        ValueError: `matrix`, which the text calls `name`, is not a finite, non-zero matrix.
    """
    if matrix.ndim != 2 or not bool(torch.isfinite(matrix).all()) or not bool(matrix.any()):
        raise ValueError(
            f"{name}: a spectrum needs a finite, non-zero matrix (out, in), not one of shape "
            f"{tuple(matrix.shape)} with {int((~torch.isfinite(matrix)).sum())} values that are "
            "NaN or infinite"
        )
    return torch.linalg.svdvals(matrix.detach().cpu().double())


def best_errors(sigma: Tensor) -> Tensor:
    """The least relative error of each rank 1, 2, …: ‖σ[r:]‖ / ‖σ‖ (Eckart & Young, 1936)."""
    energy = sigma.square()
    discarded = energy.flip(0).cumsum(0).flip(0)
    return (torch.cat([discarded[1:], energy.new_zeros(1)]) / discarded[0]).sqrt()


def _name(figure: Figure, names: list[str]) -> None:
    lines = [line for line in figure.axes[0].get_lines() if line.get_gid() == "spectrum"]
    shown = [shortened(name, LONGEST_NAME, 7) for name in names]
    if len(names) <= MOST_NAMES:
        longest = max(width(name, 7) for name in shown) / INCH
        columns = max(1, min(6, len(names), int(PAGE / (longest + 0.5))))
        figure.legend(lines, shown, loc="outside lower center", ncols=columns)
        figure.set_figheight(2.8 - 0.15 * (-len(names) // columns))
        return
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    scale = ScalarMappable(
        Normalize(0.5, len(names) + 0.5), ListedColormap([line.get_color() for line in lines])
    )
    bar = figure.colorbar(scale, ax=figure.axes, aspect=40, pad=0.01, label="layer")
    ticks = torch.linspace(0, len(names) - 1, 8).round().int().tolist()
    bar.set_ticks([index + 1 for index in ticks], labels=[shown[index] for index in ticks])
    bar.outline.set_visible(False)  # type: ignore[operator]
