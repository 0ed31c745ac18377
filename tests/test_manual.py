"""The site of `make docs`: its navigation, what it is made of, and what it refuses."""

import inspect
import pydoc
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from math_core import LatexError
from page_commands import jobs
from pages import DOCS, ROOT

import lowrank
from lowrank.metrics.metric import Metric
from manual import __main__ as program
from manual import api_pages, method_pages, results_pages
from manual.catalogue import comment, methods, parts
from manual.choices import decision_table
from manual.docstrings import each_apart, plain
from manual.figures import TEXT, figure
from manual.formulas import mathml
from manual.links import faults
from manual.measured import FEWEST, SweepResult, measured
from manual.navigation import navigation, sections

# What MyST still calls of Sphinx.
BUILD = pytest.mark.filterwarnings("ignore:'myst_parser")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", flags=re.DOTALL)
CHOICES = sorted(path.stem for path in (ROOT / "conf/method").glob("*.yaml"))
NOTES = sorted((DOCS / "methods").glob("*.md"))
ACCURACY = Metric("top1", "top-1 accuracy", "top-1 (%)", "percent")
PERPLEXITY = Metric("perplexity", "perplexity", "perplexity", "log", higher_is_better=False)


@pytest.fixture(scope="module")
def catalogue():
    return {method.name: method for method in methods()}


def formulas(text: str) -> list[str]:
    code = re.sub(r"^(`{3,}).*?^\1$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    return [block or inline for block, inline in FORMULA.findall(code)]


def sweep(points: list[tuple], metric: Metric = ACCURACY, size: str = "compression_ratio"):
    """A sweep of made-up (method, norm, size, value), filled up with methods that are worst."""
    filler = [(f"other{n}", None, points[0][2], -metric.sign * 1e3) for n in range(FEWEST)]
    frame = pd.DataFrame([*points, *filler], columns=["method", "norm", size, metric.name])
    frame["level"] = frame[f"{metric.name}_std"] = float("nan")
    frame["seeds"] = 1
    return SweepResult("made_up", "made up", metric, size, frame)


# Navigation


def test_every_page_is_in_one_section_of_the_navigation():
    named = [page for pages in sections(DOCS / "README.md").values() for page in pages]
    assert sorted(named) == sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "README")


def test_a_page_that_no_section_names_is_found_by_itself(tmp_path):
    (tmp_path / "README.md").write_text("# All\n\n## First\n\n- [one](one.md)\n")
    for name in ("one", "two"):
        (tmp_path / f"{name}.md").write_text(f"# {name}\n")
    text = navigation(tmp_path, {"API": ["api/lowrank"]})
    captions = re.findall(r":caption: (\w+)\n\n(\S+)\n", text)
    assert captions == [("First", "docs/one"), ("More", "docs/two"), ("API", "api/lowrank")]


# Pages of methods


def test_every_method_is_in_the_catalogue(catalogue):
    assert sorted(catalogue) == CHOICES


@pytest.mark.parametrize("name", CHOICES)
def test_every_method_has_a_page_whose_formulas_render(name, catalogue):
    method = catalogue[name]
    text = method_pages.page(method, [])
    found = [mathml(latex, display=True) for latex in formulas(text)]
    assert found and all(
        ElementTree.fromstring(one.replace("&ApplyFunction;", "")) for one in found
    )
    note = DOCS / "methods" / f"{type(method.made).__name__}.md"
    assert len(found) > 1 or not note.exists()
    assert (
        method.said
        and method.said in text
        and parts(type(method.made))[""] in text.replace("\\|", "|")
    )
    (commands,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    for command in commands.splitlines():
        words = command.split()[3:]
        # Of the task of the defaults, as the catalogue has composed it.
        assert words == ["task=digits", f"method={name}"] or jobs(words)


def test_the_list_of_methods_says_of_each_what_its_columns_do(catalogue):
    lines = method_pages.index(list(catalogue.values())).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    svd = next(row for row in rows if row[0] == "[svd](svd.md)")
    columns = dict(zip(rows[0], svd, strict=True))
    assert columns["what it does"] == catalogue["svd"].said
    assert columns["family"] == "low rank" and columns["data"] == "no"


@pytest.mark.parametrize("path", NOTES, ids=lambda path: path.stem)
def test_what_is_written_of_a_class_belongs_to_a_method(path, catalogue):
    assert path.stem in {type(method.made).__name__ for method in catalogue.values()}
    assert path.read_text().startswith(f"# {path.stem}\n\n$$\n")
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_whether_a_method_needs_data_is_known(catalogue):
    needs = {name for name, method in catalogue.items() if method.needs_data}
    assert {"gptq", "wanda", "fwsvd", "mix", "owl", "rank_search"} <= needs
    assert not {"svd", "magnitude", "rtn", "hqq", "svd_global", "magnitude_global"} & needs


def test_the_comment_of_a_yaml_is_text_and_commands(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "# @package _global_\n# One line,\n# and more.\n#   method=mine\nmethod: 3\n# no\n"
    )
    assert comment(path) == ("One line, and more.", ("method=mine",))


def test_a_docstring_is_taken_apart():
    class Made:
        """First.

        More of it.

        Args:
            one: a number,
                above 0.
            two: another.

        Source: A, 2020;
        B.
        """

    found = parts(Made)
    assert found[""] == "First.\n\nMore of it." and found["Source"] == "A, 2020;\nB."
    assert method_pages.fields(found["Args"]) == (
        "- **one**: a number,\n  above 0.\n- **two**: another."
    )


@given(st.text("ab|` \n"))
def test_only_bars_outside_code_are_changed(text):
    changed = plain(text)
    assert changed.replace("\\|", "|") == text
    for code in re.findall(r"``.*?``|`[^`]*`", text, flags=re.DOTALL):
        assert code in changed


def test_attributes_that_are_described_together_are_told_apart():
    text = (
        "What.\n\nArgs:\n    a, b: as\n        given.\n\nAttributes:\n    c, d: both\n        so.\n"
        "    e: one."
    )
    apart = "    c: both\n        so.\n    d: both\n        so.\n    e: one."
    assert "\n".join(each_apart(text.split("\n"))) == text.replace(
        "    c, d: both\n        so.\n    e: one.", apart
    )


def test_the_methods_page_of_results_has_all_levels(catalogue):
    result = sweep([("svd", None, 2.0, 0.9), ("svd", None, 4.0, 0.5)])
    text = method_pages.page(catalogue["svd"], [result])
    assert "| – | 2.00× | – | – | 90.00 |\n| – | 4.00× | – | – | 50.00 |" in text
    assert "No sweep" in method_pages.page(catalogue["nm"], [result])


# What is made of results


def cells(catalogue, made):
    """The cells of the decision table of a sweep, and what stands above."""
    text = decision_table(list(catalogue.values()), [made]).replace("\N{NO-BREAK SPACE}", " ")
    said, _, *lines = text.splitlines()
    return [line.strip("| ").split(" | ")[1:] for line in lines[2:]], said


LINK = "[{0}](methods/{0}.md) {1}, 1 seed †"


def test_the_decision_table_takes_the_best_with_and_without_data(catalogue):
    points = [
        *[("svd", None, 2.5, 0.6), ("magnitude", None, 2.5, 0.7), ("svd", None, 9.0, 0.2)],
        *[("gptq", None, 5.0, 0.8), ("magnitude", "diagonal", 3.0, 0.9)],
    ]
    rows, said = cells(catalogue, sweep(points))
    one = "[{0}](methods/{0}.md) {1}, 1 seed"
    assert rows == [
        ["1.5–2×", LINK.format("magnitude", "70.00"), LINK.format("magnitude", "90.00")],
        ["4×", one.format("svd", "20.00"), one.format("gptq", "80.00")],
        ["8×", one.format("svd", "20.00"), "–"],
    ]
    assert "†: chosen on the test split itself" in said


def test_the_decision_table_chooses_on_validation_and_shows_the_test_split(catalogue):
    made = sweep([("svd", None, 2.5, 0.6), ("magnitude", None, 2.5, 0.7)])
    points = made.points.assign(validation_top1=0.1, top1_low=0.5, top1_high=0.75, seeds=3)
    points.loc[points["method"] == "svd", "validation_top1"] = 0.8
    rows, said = cells(catalogue, replace(made, points=points))
    assert rows == [["1.5–2×", "[svd](methods/svd.md) 60.00 [50.00, 75.00], 3 seeds", "–"]]
    assert "best on the validation split" in said and "†" not in said


def test_the_decision_table_knows_which_way_is_better(catalogue):
    points = [("rtn", None, 4.3, 5.2), ("hqq", None, 4.5, 5.1), ("rtn", None, 9.0, 4.0)]
    rows, _ = cells(catalogue, sweep(points, PERPLEXITY, "layers_bits_per_weight"))
    assert ["8–5 bits", LINK.format("hqq", "5.100"), "–"] in rows
    assert ["16–10 bits", LINK.format("rtn", "4.000"), "–"] in rows


def test_a_sweep_of_few_methods_is_no_choice(catalogue):
    enough = sweep([("svd", None, 2.0, 0.5)])
    few = replace(enough, points=enough.points[: FEWEST - 1])
    assert enough.compares and not few.compares
    assert "made_up" not in decision_table(list(catalogue.values()), [few])


def test_the_tables_of_results_are_read_without_the_data_of_tasks(monkeypatch, tmp_path):
    monkeypatch.delenv("LOWRANK_HUB", raising=False)
    monkeypatch.setenv("LOWRANK_CACHE", str(tmp_path))
    read = {result.folder: result for result in measured()}
    digits = read["digits"]
    assert digits.metric.name == "top1" and digits.size == "compression_ratio"
    assert read["stories260k"].metric.sign < 0 and digits.compares
    sizes = list(digits.of("svd")["compression_ratio"])
    assert len(sizes) > 2 and sizes == sorted(sizes)


def test_a_figure_is_svg_in_the_colour_of_the_page():
    made = sweep([("svd", None, 2.0, 0.9), ("svd", None, 4.0, 0.5)])
    text = figure(made, "svd")
    assert ElementTree.fromstring(text).get("aria-label") == "svd among all methods of made_up"
    assert "currentColor" in text and TEXT not in text
    assert figure(made, "svd") == text


# The API


def test_every_public_name_is_described_once(tmp_path):
    names = api_pages.write(tmp_path / "api")
    text = "".join((tmp_path / "api" / f"{name}.md").read_text() for name in names)
    described = re.findall(r"\.\. auto(?:class|function):: (\S+)", text)
    linked = re.findall(r"\{py:obj\}`\w+ <(\S+)>`", text)
    assert len(set(described)) == len(described) and set(linked) <= set(described)
    assert {name.rpartition(".")[2] for name in described} >= {*dir(lowrank)}


def test_every_class_and_function_that_pages_import_is_described(tmp_path):
    names = api_pages.write(tmp_path / "api")
    text = "".join((tmp_path / "api" / f"{name}.md").read_text() for name in names)
    described = re.findall(r"\.\. auto(?:class|function):: (\S+)", text)
    described = [pydoc.locate(name) for name in described]
    paths = [ROOT / "README.md", *DOCS.rglob("*.md"), *ROOT.glob("notebooks/*.ipynb")]
    imports = re.compile(r"from (lowrank[\w.]*) import ([\w, ]+)")
    found = [one for path in paths for one in imports.findall(path.read_text())]
    asked = {f"{place}.{name}" for place, given in found for name in given.split(", ")}
    values = {name: pydoc.locate(name) for name in asked}
    assert len(values) > 40 and None not in values.values()
    modules = [name for name, one in values.items() if inspect.ismodule(one)]
    assert not [name for name in modules if not re.search(rf"^##? {name}$", text, re.MULTILINE)]
    own = {n: one for n, one in values.items() if inspect.isclass(one) or inspect.isfunction(one)}
    assert not [name for name, one in own.items() if one not in described]


# The build


def test_what_no_formula_is_is_refused():
    assert "<mfrac" in mathml(r"\frac{a}{b}", display=False)
    with pytest.raises(LatexError):
        mathml(r"\nothing{a}", display=False)


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build a site of one page; its HTML."""

    def run(text: str) -> str:
        def write(folder):
            folder.mkdir(parents=True)
            (folder / "index.md").write_text(text)

        monkeypatch.setattr(program, "write_sources", write)
        program.build(tmp_path / "site")
        return (tmp_path / "site" / "index.html").read_text()

    return run


def test_the_pages_of_results_have_headings_and_all_figures_and_tables():
    found = results_pages.pages()
    assert all(text.startswith("# ") for text in found.values())
    assert not [place for place in found if "runs" in place.parts]
    for place, text in found.items():
        folder = (ROOT / place).parent
        if place.name == "README.md":
            for path in [*folder.glob("*.png"), *folder.glob("*.md")]:
                assert f"({path.name})" in text or path.name == "README.md"
        else:
            assert text.endswith((ROOT / place).read_text())


@BUILD
def test_a_page_is_built_for_reading_without_network(build):
    html = build("# One\n\n$$\n\\sum_i x_i\n$$\n\n[Here](#one), and $x^2$.\n")
    assert html.count("<math") == 2 and "mathjax" not in re.sub("mathjax_ignore", "", html)


@BUILD
@pytest.mark.parametrize(
    "text", ["# One\n\n[no](two.md)\n", "# One\n\n$\\nothing$\n", "# One\n\n[no](#two)\n"]
)
def test_a_warning_ends_the_build(build, text):
    with pytest.raises(SystemExit, match="warnings"):
        build(text)


@pytest.mark.parametrize(
    "body, fault",
    [
        ('<a href="b.html#there">', ""),
        ('<a href="https://example.org">', ""),
        ('<img src="data:image/png;base64,AA==">', ""),
        ('<a href="c.html">', "c.html leads nowhere"),
        ('<a href="../outside.html">', "../outside.html leads nowhere"),
        ('<a href="b.html#not">', "no such anchor"),
        ('<a href="#not">', "no such anchor"),
        ('<img src="a.png">', "a.png leads nowhere"),
        ('<script src="https://example.org/x.js">', "from another site"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "from another site"),
    ],
)
def test_faults_of_a_site_are_found(body, fault, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "outside.html").write_text("")
    (site / "a.html").write_text(f"<body>{body}</body>")
    (site / "b.html").write_text('<body id="top"><p id="there"></body>')
    found = faults(site)
    assert len(found) == bool(fault) and fault in "".join(found)
