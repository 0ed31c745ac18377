"""LaTeX of tables: numbers aligned by siunitx, remarks in columns of their own, and it compiles."""

import re
import shutil
import subprocess

import made_records as records
import pandas as pd
import pytest
from test_tables import HOSTILE

from lowrank.records import store
from lowrank.reporting import fidelity, latex
from lowrank.reporting.compare import compare
from lowrank.reporting.norm_table import norm_table
from lowrank.reporting.tables import long_table, summary_table

DOCUMENT = r"\documentclass{article}\usepackage{booktabs, siunitx, graphicx}\begin{document}"


def rendered(columns, best=None, labels=1):
    cells = pd.DataFrame(columns)
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    for row, column in best or ():
        bold.loc[row, column] = True
    return latex.table(cells, bold, "a caption", labels)


def body(text):
    rows = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines()
    return [row.removesuffix(r" \\").split(" & ") for row in rows]


def alignment(text):
    return re.search(r"\\begin\{tabular\}\{(.*)\}$", text, flags=re.MULTILINE)[1]


@pytest.mark.parametrize(
    ("texts", "room"),
    [
        (["1.50", "12.25"], "2.2"),
        (["-1.5", "2.0"], "-1.1"),
        (["7", "12"], "2"),
        (["97.05 ± 0.40", "9.10 ± 12.25"], "2.2(4)"),
        (["0.100 ± 0.000", "0.200"], "1.3(1)"),
        (["–", "3.1", "no: full"], "1.1"),
    ],
)
def test_a_column_has_the_room_that_its_numbers_take(texts, room):
    text = rendered({"method": ["a"] * len(texts), "top1": texts})
    assert alignment(text) == f"lS[table-format={room}]"


def test_numbers_deviations_remarks_and_texts_are_told_apart():
    text = rendered(
        {
            "method": ["a_b", "c", "d"],
            "2×": ["97.05 ± 0.40 (3.1 bits)", "3.00 (gptq_x)", "–"],
            "seeds": ["3", "2 of 3", "3"],
            "improves": ["yes", "no: full", "yes"],
        },
        [(0, "2×"), (0, "improves")],
    )
    assert alignment(text) == r"lS[table-format=2.2(2)]@{\ }lS[table-format=1]r"
    assert body(text) == [
        [r"a\_b", r"\bfseries 97.05 +- 0.40", "(3.1 bits)", "3", r"\textbf{yes}"],
        ["c", "3.00", r"(gptq\_x)", "{2 of 3}", "no: full"],
        ["d", "{--}", "", "3", "yes"],
    ]
    head = text.partition("\\toprule\n")[2].splitlines()[0]
    assert head == r"method & \multicolumn{2}{c}{2$\times$} & {seeds} & improves \\"


def test_minus_signs_are_no_hyphens():
    text = rendered({"method": ["a-1"], "interval": ["-2.5 to -1"], "test": ["re-1, 4-3"]})
    assert body(text) == [["a-1", "$-$2.5 to $-$1", "re-1, 4-3"]]


def test_a_label_that_is_a_number_stays_a_text():
    text = rendered({"method": ["a"], "level": ["0.50"], "top1": ["1.0"]}, labels=2)
    assert alignment(text) == "llS[table-format=1.1]" and body(text) == [["a", "0.50", "1.0"]]


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return store.load(records.write(tmp_path_factory.mktemp("runs"), methods=("svd", "random")))


def compiles(tmp_path, *parts):
    """Run LaTeX twice as strictly as it can be, without a command that a text may hold."""
    program = shutil.which("pdflatex")
    found = program and subprocess.run(["kpsewhich", "siunitx.sty"], capture_output=True).stdout
    if not found:
        pytest.skip("no LaTeX with siunitx is installed")
    (tmp_path / "page.tex").write_text("\n".join([DOCUMENT, *parts, r"\end{document}"]))
    strict = ["-interaction=nonstopmode", "-halt-on-error", "-draftmode", "-no-shell-escape"]
    command = [program, *strict, "page.tex"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")


def test_every_table_compiles_whatever_the_names(frame, tmp_path):
    own = frame[(frame["method"] == "svd") & (frame["seed"] == 0)]
    named = [own.assign(method=name) for name in HOSTILE]
    hostile = pd.concat(named, ignore_index=True).assign(task="<b>&$x$|\\y", model="=m")
    texts = store.load(records.write_texts(tmp_path / "texts", 2, records.NINE))
    for made_up in records.records(1, ("svd", "random")):
        store.save(records.with_outcomes(made_up), tmp_path / "outcomes")
    outcomes = store.load(tmp_path / "outcomes")
    tables = [
        summary_table(frame),
        long_table(frame),
        summary_table(hostile),
        norm_table(texts, "perplexity"),
        compare(outcomes, "svd", "random").table,
        fidelity.fidelity_table(outcomes, "top1", "compression_ratio"),
        fidelity.class_table(outcomes, "top1", "compression_ratio"),
    ]
    ended = compiles(tmp_path, *(table.to_latex() for table in tables))
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert "Warning: Label" not in ended.stdout and "rror" not in ended.stdout


def test_a_table_that_does_not_compile_is_found(frame, tmp_path):
    broken = summary_table(frame).to_latex().replace(r"\toprule", r"\topprule")
    assert compiles(tmp_path, broken).returncode != 0
