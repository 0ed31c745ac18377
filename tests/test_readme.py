"""The Python of the README runs as it stands."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
# What needs a model of the hub, or records that `make sweep` makes.
ELSEWHERE = ("from_pretrained(", "results/runs/digits")
HERE = [block for block in BLOCKS if not any(word in block for word in ELSEWHERE)]


def test_most_blocks_are_run():
    assert len(BLOCKS) == 6 and len(HERE) == 4


@pytest.mark.parametrize("block", HERE, ids=lambda block: block.splitlines()[0])
def test_block_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
