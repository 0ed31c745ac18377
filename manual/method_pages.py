"""The page of each method: its formula, when it pays, its settings, its results and its source."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lowrank.records.columns import COSTS
from manual import docstrings
from manual.catalogue import CONF, ROOT, MethodEntry, comment, parts
from manual.figures import figure
from manual.measured import SweepResult, level

# What authors write of a class beside its docstring, in Markdown; most often its formula.
NOTES = ROOT / "docs" / "methods"
NORM = r"\lVert A^{1/2} \, (W - \hat W) \, B^{1/2} \rVert_F"
HEADS = ("level", "compression", "bits per weight", "theoretical speedup")


def page(method: MethodEntry, results: Sequence[SweepResult]) -> str:
    """The page of a method in Markdown."""
    said = parts(type(method.made))
    room = type(method.made).__module__.rpartition(".")[0]
    texts = [
        f"# {method.name}",
        # Where names in the docstring are looked for.
        rst(f".. py:currentmodule:: {room}"),
        method.said,
        *note(type(method.made)),
        _norm(method),
        "## How it works, and when it pays",
        rst(said[""]),
        "## Settings",
        _settings(method),
        rst(fields(said["Args"])) if "Args" in said else "",
        f"All of it: {{py:class}}`{method.config['_target_']}`.",
        "## Results",
        *_results(method, [result for result in results if not result.of(method.name).empty]),
        *(["## Source", rst(said["Source"])] if "Source" in said else []),
    ]
    return "\n\n".join(text for text in texts if text) + "\n"


def note(cls: type) -> list[str]:
    """What docs/methods says of a class, if there is such a page, without its heading."""
    path = NOTES / f"{cls.__name__}.md"
    if not path.is_file():
        return []
    return [path.read_text(encoding="utf-8").partition("\n")[2].strip()]


def rst(text: str) -> str:
    """A part of a docstring for a page in Markdown."""
    return f"`````{{eval-rst}}\n{docstrings.plain(text)}\n`````"


def fields(text: str) -> str:
    """The fields of a docstring, `name: what it is`, as a list."""
    lines = [line if line.startswith(" ") else f"- **{line}" for line in text.splitlines()]
    named = (line.replace(":", "**:", 1) if line.startswith("-") else line[2:] for line in lines)
    return "\n".join(named)


def _norm(method: MethodEntry) -> str:
    what, _ = comment(CONF / "norm" / f"{method.norm}.yaml")
    return (
        f"The error counts in the norm ${NORM}$, by default the `{method.norm}` one: "
        f"{what[0].lower()}{what[1:]} [More of norms](../which-norm.md)."
    )


def _settings(method: MethodEntry) -> str:
    data = "calibration data" if method.needs_data else "no data"
    config = yaml.safe_dump(method.config, sort_keys=False, allow_unicode=True)
    commands = "".join(f"python -m experiments.sweep {words}\n" for words in method.examples)
    return (
        f"Family: {method.made.family}. It needs {data}. `conf/method/{method.name}.yaml` sets:\n\n"
        f"```yaml\n{config}```\n\nIn a sweep:\n\n```sh\n{commands}```"
    )


def _results(method: MethodEntry, results: Sequence[SweepResult]) -> list[str]:
    """The figures and tables of the sweeps that have the method."""
    if not results:
        return ["No sweep in `results/` measures it."]
    curves = [figure(result, method.name) for result in results if result.compares]
    drawn = "\n".join(["```{raw} html", '<div class="curves">', *curves, "</div>", "```"])
    said = "Each point is a level of the method; the grey lines are all other methods."
    tables = [
        text
        for result in results
        for text in (_heading(result), _table(result, result.of(method.name)))
    ]
    return [*([drawn, said] if curves else []), *tables]


def _heading(result: SweepResult) -> str:
    return f"[{result.folder}](../../results/{result.folder}/README.md): {result.title}"


def _table(result: SweepResult, points: Any) -> str:
    has_norms = points["norm"].nunique() > 1
    heads = [*(["norm"] if has_norms else []), *HEADS, result.metric.heading]
    rows = [
        [
            *([str(point["norm"])] if has_norms else []),
            level(point),
            *(result.cost(point, name) for name in _costs(result)),
            result.quality(point),
        ]
        for _, point in points.iterrows()
    ]
    return table(heads, rows, labels=len(heads) - len(HEADS) - 1)


def _costs(result: SweepResult) -> tuple[str, ...]:
    ratio = result.size if COSTS[result.size].scale == "ratio" else "compression_ratio"
    return ratio, "layers_bits_per_weight", "theoretical_speedup"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], labels: int = 1) -> str:
    """A pipe table, its first columns names and the others numbers."""
    rule = ["---"] * labels + ["---:"] * (len(heads) - labels)
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]
    return "\n".join(lines)


def index(all_methods: Sequence[MethodEntry]) -> str:
    """The list of all methods, with their pages below it in the navigation."""
    rows = [
        [
            f"[{one.name}]({one.name}.md)",
            one.said,
            one.made.family,
            "yes" if one.needs_data else "no",
        ]
        for one in sorted(all_methods, key=lambda one: (one.made.family, one.name))
    ]
    text = textwrap.dedent(
        """\
        # What does each method do?

        A page for each choice of `conf/method`, made of its YAML, the docstring of its class and
        the tables of `results/`.
        """
    )
    pages = [row[0].partition("]")[0][1:] for row in rows]
    tree = "\n".join(["```{toctree}", ":hidden:", "", *pages, "```"])
    heads = ("method", "what it does", "family", "data")
    return f"{text}\n{table(heads, rows, labels=4)}\n\n{tree}\n"


def write(folder: Path, all_methods: Sequence[MethodEntry], results: Sequence[SweepResult]) -> None:
    """Write the pages of all methods, and their index, into a folder."""
    folder.mkdir(parents=True)
    (folder / "index.md").write_text(index(all_methods), encoding="utf-8")
    for method in all_methods:
        text = page(method, results)
        (folder / f"{method.name}.md").write_text(text, encoding="utf-8")
