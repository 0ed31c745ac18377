"""Names of files are plain, in one folder, and different where the names behind them are."""

import os

from hypothesis import given
from hypothesis import strategies as st

from lowrank.files.names import LONGEST, stems

words = st.lists(st.text(min_size=1, max_size=60), min_size=2, max_size=3)
names = st.lists(words, min_size=1, max_size=5, unique_by=tuple)


@given(names)
def test_they_can_be_files_of_one_folder(found):
    for stem in stems(found):
        assert stem and os.path.basename(stem) == stem and stem.isprintable()
        assert stem[0] not in ".-" and not set(stem) & set('/\\:*?"<>|$`;&!\0')
        assert len(stem.encode()) <= LONGEST + 9


@given(names)
def test_no_two_are_alike(found):
    assert len({stem.casefold() for stem in stems(found)}) == len(found)


def test_plain_names_stay():
    assert stems([["digits", "mlp"], ["mnist", "me/tiny", "finetune"]]) == [
        *("digits-mlp", "mnist-me--tiny-finetune")
    ]


def test_what_only_looks_alike_is_told_apart(tmp_path):
    alike = [["a-b", "c"], ["a", "b-c"], ["A", "B-C"], ["a/b", "c"], ["a--b", "c"], ["a:b", "c"]]
    found = stems(alike)
    assert len(set(found)) == len(alike)
    for stem in found:
        (tmp_path / stem).write_text("")
    assert len(os.listdir(tmp_path)) == len(alike)


def test_they_are_the_same_again_whatever_stands_beside_them():
    assert stems([["a:b", "c"]]) == stems([["a:b", "c"], ["d", "e"]])[:1]


def test_letters_of_all_languages_are_letters():
    assert stems([["数字", "модель"]]) == ["数字-модель"]
