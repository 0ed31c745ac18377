"""JSON of others is read field by field, or refused with the place of what is wrong."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank.files.fields import DEEPEST, FieldError, Fields, parse, shown
from lowrank.files.from_json import built

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text("aé\u0000😀"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
)


@given(PLAIN)
def test_what_python_writes_is_read(value):
    assert parse(json.dumps(value), "text") == value
    assert parse(json.dumps(value).encode(), "text") == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("[1, 2", "Expecting"),
        ("NaN", "nan is no number"),
        ('{"a": -Infinity}', "-inf is no number"),
        ("[1e999]", "inf is no number"),
        ("1" * 5000, "4300 digits"),
        (str(2**64), "an integer of 65 bits"),
        ('{"a": [-36893488147419103232]}', "an integer of 66 bits"),
        ("[" * 100_000, "recursion|Expecting|nested"),
        ("[" * 65 + "]" * 65, f"nested more than {DEEPEST} deep"),
        ('{"a":' * 70 + "1" + "}" * 70, f"nested more than {DEEPEST} deep"),
        ('"\\ud800"', "surrogates"),
        ('{"\\udfff": 1}', "surrogates"),
        (b"\xff\xfe", "utf-8"),
        (b"\x80\x04", "utf-8"),
        ("'a'", "Expecting"),
        ("[1] 2", "Extra data"),
    ],
)
def test_other_texts_are_one_error(text, says):
    with pytest.raises(FieldError, match=f"(?i)^place is not JSON as written here: .*({says})"):
        parse(text, "place")


def test_numbers_may_be_left_to_others():
    assert parse(f"[{2**80}, 1e999]", "text", numbers=False) == [2**80, float("inf")]


GIVEN = {
    "n": 3,
    "yes": True,
    "half": 0.5,
    "word": "a",
    "list": [1, 2],
    "map": {"x": 1},
    "none": None,
}


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda f: f["other"], "top lacks 'other'"),
        (lambda f: f.integer("other"), "top lacks 'other'"),
        (lambda f: f.integer("yes"), "top.yes is True: it must be an integer of at least 0"),
        (lambda f: f.integer("half"), "top.half is 0.5: it must be an integer"),
        (lambda f: f.integer("word"), "top.word is 'a'"),
        (lambda f: f.integer("n", 4), "top.n is 3: it must be an integer of at least 4"),
        (lambda f: f.integer("n", 0, 2), "top.n is 3: .* at most 2"),
        (lambda f: f.integer("none"), "top.none is None"),
        (lambda f: f.integers("list", 3), r"top.list is \[1, 2\]: it must be 3 integers"),
        (lambda f: f.integers("list", 2, least=2), "top.list is 1"),
        (lambda f: f.integers("map", 1), "top.map is .*: it must be a list"),
        (lambda f: f.integers("word", 1), "top.word is 'a': it must be a list"),
        (lambda f: f.number("yes"), "top.yes is True: it must be a finite number"),
        (lambda f: f.number("n", 0, 1), r"top.n is 3: it must be a finite number in \[0, 1\]"),
        (lambda f: f.number("list"), "top.list"),
        (lambda f: f.text("n"), "top.n is 3: it must be a text"),
        (lambda f: f.one_of("word", ("b", "c")), r"top.word is 'a': .* one of \['b', 'c'\]"),
        (lambda f: f.one_of("list", ("b",)), "top.list"),
        (lambda f: f.sequence("word"), "top.word is 'a': it must be a list"),
        (lambda f: f.texts("list"), r"top.list\[0\] is 1: it must be a text"),
        (lambda f: f.fields("list"), "top.list must be a mapping of fields"),
        (lambda f: f.fields("map").text("x"), "top.map.x is 1"),
        (lambda f: f.each("list"), r"top.list\[0\] must be a mapping"),
        (lambda f: f.only("n"), "top has .* besides"),
    ],
)
def test_a_field_that_is_not_as_asked_for_is_named(read, says):
    with pytest.raises(FieldError, match=says):
        read(Fields(GIVEN, "top"))


def test_what_is_as_asked_for_is_read():
    f = Fields(GIVEN, "top")
    assert (f.integer("n"), f.number("n"), f.number("half"), f.text("word")) == (3, 3.0, 0.5, "a")
    assert f.integers("list", 2) == (1, 2) and f.sequence("list") == [1, 2]
    assert f.fields("map").integer("x") == 1 and dict(f) == GIVEN and len(f) == len(GIVEN)
    assert "n" in f and "other" not in f and f.get("other", 7) == 7


def test_large_values_are_shown_short():
    assert len(shown(["x" * 10_000] * 10_000)) < 500
    assert len(shown({str(n): [n] * 100 for n in range(1000)})) < 500


@dataclass(frozen=True)
class Inner:
    word: Literal["a", "b"]
    share: float | None = None


@dataclass(frozen=True)
class Outer:
    n: int
    yes: bool
    sizes: tuple[int, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    inner: tuple[Inner, ...] = ()
    named: dict[str, str] = field(default_factory=dict)


OUTER = Outer(3, True, (1, 2), (("a", "b"),), (Inner("a"), Inner("b", 0.5)), {"x": "y"})


def test_dataclasses_come_back_from_their_json():
    for one in (OUTER, Outer(0, False, ())):
        fields = Fields(json.loads(json.dumps(dataclasses.asdict(one))), "it")
        assert built(Outer, fields) == one
    assert built(Inner, Fields({"word": "b", "share": 2}, "it")) == Inner("b", 2.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n": True}, "it.n is True: it must be an integer"),
        ({"n": 1.5}, "it.n is 1.5: it must be an integer"),
        ({"yes": 1}, "it.yes is 1: it must be true or false"),
        ({"sizes": 3}, "it.sizes is 3: it must be a list"),
        ({"sizes": [1, "2"]}, r"it.sizes\[1\] is '2': it must be an integer"),
        ({"pairs": [["a"]]}, r"it.pairs\[0\] is \['a'\]: it must be a list of 2"),
        ({"inner": [{}]}, r"it.inner\[0\] lacks 'word'"),
        ({"inner": [{"word": "c"}]}, r"it.inner\[0\].word is 'c': it must be one of"),
        ({"inner": [{"word": ["a"]}]}, r"it.inner\[0\].word is \['a'\]"),
        ({"inner": [{"word": "a", "share": "x"}]}, r"it.inner\[0\].share is 'x'"),
        ({"inner": [{"word": "a", "share": float("nan")}]}, r"share is nan: it must be a finite"),
        ({"inner": [3]}, r"it.inner\[0\] must be a mapping of fields, not 3"),
        ({"named": {"x": 1}}, "it.named.x is 1: it must be a text"),
        ({"named": []}, "it.named must be a mapping"),
        ({"other": 1}, r"it has \['other'\] besides"),
        ({"n": None}, "it.n is None"),
    ],
)
def test_dataclasses_of_other_fields_are_refused(change, says):
    with pytest.raises(FieldError, match=says):
        built(Outer, Fields(dataclasses.asdict(OUTER) | change, "it"))
    lacking = {name: value for name, value in dataclasses.asdict(OUTER).items() if name != "n"}
    with pytest.raises(FieldError, match="it lacks 'n'"):
        built(Outer, Fields(lacking, "it"))
