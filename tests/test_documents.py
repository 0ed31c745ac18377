"""README and docs/: their Python runs, their links lead somewhere, their tables hold."""

import ast
import os
import re
from collections import OrderedDict
from pathlib import Path

import made_records
import pages
import pytest
import torch
import yaml
from pages import DOCS, PAGES, RESULTS, ROOT, blocks

import lowrank
from lowrank import decomposers
from lowrank.norms import IDENTITY
from lowrank.records import store

PYTHON = [(page, block) for page in PAGES for block in blocks(page, "python")]
# The models of pages → one of the mirror.
WRITTEN = ("EleutherAI/pythia-160m", "Qwen/Qwen2.5-0.5B")
MIRRORED = "models/karpathy/stories260K"
IMPORTS = (ast.Import, ast.ImportFrom)
EVERY_PAGE = pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=pages.name)


def heading(page: Path, block: str) -> str:
    return f"{pages.name(page)}: {block.splitlines()[0]}"


def run(block: str) -> dict:
    namespace = {"__name__": "__main__"}
    exec(compile(block, "page", "exec"), namespace)
    return namespace


def mirrored(block: str) -> str:
    """The block with the mirror's model in the place of the hub's, which tests do not reach."""
    hub = os.environ.get("LOWRANK_HUB")
    if hub is None:
        pytest.skip("LOWRANK_HUB is not set")
    (written,) = [name for name in WRITTEN if name in block]
    return block.replace(written, str(Path(hub) / MIRRORED))


def write_records(folder: Path) -> None:
    """Records as `make sweep` leaves them, of a few methods."""
    for record in made_records.records(seeds=2, methods=("svd", "magnitude")):
        store.save(made_records.with_outcomes(record), folder)
    mix = made_records.record(
        "svd", 0, allocation={"_target_": "lowrank.allocation.MixedAllocation"}
    )
    store.save(mix | {"method": "mix", "level": 16.0}, folder)


@pytest.mark.parametrize("page, block", PYTHON, ids=[heading(*one) for one in PYTHON])
def test_python_runs(page, block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "from_pretrained(" in block:
        block = mirrored(block)
    if "results/runs/digits" in block:
        write_records(tmp_path / "results/runs/digits")
    error = pages.refused(page, "python").get(block)
    if error is not None:
        with pytest.raises(Exception) as raised:  # noqa: B017
            run(block)
        assert f"{raised.type.__name__}: {' '.join(str(raised.value).split())}" == error
        return
    run(block)
    assert "Empty DataFrame" not in capsys.readouterr().out


@pytest.mark.parametrize("page", RESULTS, ids=pages.name)
def test_what_the_long_python_of_results_imports_is_there(page):
    for block in blocks(page, "python"):
        lines = ast.parse(block).body
        run("\n".join(ast.unparse(line) for line in lines if isinstance(line, IMPORTS)))


def test_python_that_fails_is_found():
    with pytest.raises(ImportError):
        run("from lowrank import Nothing")


def test_the_decomposer_that_is_shown_decomposes_and_its_yaml_makes_it(monkeypatch):
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    page = DOCS / "how-to-add-things.md"
    (block,) = [block for block in blocks(page, "python") if "(Decomposer)" in block]
    own = run(block)["RandomRange"]
    (written,) = [block for block in blocks(page, "yaml") if "RandomRange" in block]
    monkeypatch.setattr(decomposers, "RandomRange", own, raising=False)
    config = OmegaConf.create(written)
    config.seed = 3
    made = instantiate(config.method)
    assert made == own(rank=8, seed=3) and (made.family, made.level) == ("low rank", 8)
    weight = torch.randn(12, 8, generator=torch.manual_seed(0)) @ torch.randn(8, 20)
    torch.testing.assert_close(made.decompose(weight, IDENTITY).to_dense(), weight)
    with pytest.raises(ValueError, match="rank"):
        own(rank=13).decompose(weight, IDENTITY)


@EVERY_PAGE
def test_every_block_says_its_language(page):
    assert set(pages.languages(page)) <= pages.LANGUAGES
    assert page.read_text().count("```") == 2 * len(pages.languages(page))


@EVERY_PAGE
def test_links_lead_somewhere(page):
    assert pages.links(page) or page in RESULTS
    for target in pages.links(page):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in pages.anchors(there), target


@EVERY_PAGE
def test_files_that_are_named_exist(page):
    rooms = ("lowrank/", "conf/", "tests/", "docs/", "experiments/", "notebooks/", "results/")
    named = [code for code in pages.inline(page) if re.fullmatch(r"[\w/.]+", code)]
    for code in (code for code in named if code.startswith(rooms)):
        # What a sweep leaves, and what the reader is to write.
        if not code.startswith("results/runs/") and code != "conf/task/mine.yaml":
            assert (ROOT / code).exists(), code


def test_pages_are_listed_and_short():
    assert "docs/README.md" in pages.links(ROOT / "README.md")
    listed = {(DOCS / link).resolve() for link in pages.links(DOCS / "README.md")}
    assert {*DOCS.glob("*.md")} - {DOCS / "README.md"} <= listed
    for page in PAGES:
        assert len(page.read_text().split()) <= (1600 if page.parent == ROOT else 950), page


def test_the_yaml_of_adapters_by_layer_makes_them():
    from experiments.parts import make

    (written,) = blocks(DOCS / "how-to-adapt-a-model.md", "yaml")
    method = make(yaml.safe_load(written)["method"])
    model = torch.nn.Sequential(OrderedDict(fc1=torch.nn.Linear(9, 9), fc2=torch.nn.Linear(9, 5)))
    layers = lowrank.compress(model, method).layers
    assert [layer.decomposer[:19] for layer in layers] == [
        "LoRA(rank=8, alpha=",
        "LoRA(rank=2, alpha=",
    ]
    with pytest.raises(ValueError, match=r"the patterns \['fc1'\] decide no layer"):
        lowrank.compress(model[1:], method)


@pytest.mark.parametrize(
    "names, group",
    [
        (["which-method", "how-to-adapt-a-model"], "method"),
        (["how-to-recover-quality"], "recovery"),
    ],
)
def test_every_choice_of_a_group_is_in_its_table(names, group):
    text = "\n".join((DOCS / f"{name}.md").read_text() for name in names)
    rows = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
    named = {choice for row in rows for choice in re.findall(r"`(\w+)`", row)}
    assert {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} <= named


def test_the_classes_of_the_table_of_methods_are_all_that_there_are():
    names = ("which-method", "how-to-adapt-a-model")
    text = "\n".join((DOCS / f"{name}.md").read_text() for name in names)
    rows = re.findall(r"^\| `.*? \| (`[^|]*`) \|", text, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    targets = "".join(path.read_text() for path in (ROOT / "conf/method").glob("*.yaml"))
    made = set(re.findall(r"lowrank\.decomposers\.(\w+)", targets))
    assert named <= set(dir(decomposers)) and named <= made


def test_the_table_of_the_readme_is_that_of_the_reference_results():
    def cells(line: str) -> list[str]:
        return [re.sub(r" \([^)]*\)|\*", "", cell).strip() for cell in line.split("|")[1:-1]]

    tables = [
        [cells(line) for line in path.read_text().splitlines() if line.startswith("|")]
        for path in (ROOT / "README.md", ROOT / "results/digits/digits-mlp-summary.md")
    ]
    columns = tables[1][0]
    reference = {row[0]: dict(zip(columns, row, strict=True)) for row in tables[1]}
    start = next(n for n, row in enumerate(tables[0]) if row[0] == "method")
    shown = [row for row in tables[0][start:] if len(row) == len(tables[0][start])]
    assert len(shown) == 12
    for row in shown[2:]:
        wanted = [reference[row[0]][column] for column in shown[0]]
        assert row == wanted
