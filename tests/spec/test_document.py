import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_sweep.spec.document import MAX_VALUES, Document, Place, read_yaml


def refused(text: str) -> list[tuple[int | None, str, str]]:
    return [(each.line, each.key, f"{each.message}; {each.remedy}") for each in read_yaml(text, "f").problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1.0e-4", 1e-4), ("1E3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-2.5e+1", -25.0), ("+.5e1", 5.0),
        ("12", 12), ("-3", -3), ("+3", 3), ("010", 10), ("0x1F", 31), ("0o17", 15),
        ("-.inf", -math.inf), (".Inf", math.inf),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("OFF", "OFF"), ("y", "y"), ("1_000", "1_000"), ("1:30", "1:30"),
        ("2020-01-02", "2020-01-02"), ("1e", "1e"), ("1.2.3", "1.2.3"), ("'1'", "1"), ('"true"', "true"), ("<<", "<<"),
        ("[1, a, {b: .5}]", [1, "a", {"b": 0.5}]), ("{a: , b: ''}", {"a": None, "b": ""}),
    ],
)  # fmt: skip
def test_values_by_the_core_schema(text: str, value: object) -> None:
    document = read_yaml(text, "f")
    assert document.problems == []
    assert document.data == value
    assert type(document.data) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read_as_python_writes_it(number: float) -> None:
    assert read_yaml(repr(number), "f").data == number


def test_nan() -> None:
    assert math.isnan(read_yaml(".nan", "f").data)


def test_places_are_those_of_the_keys() -> None:
    document = read_yaml("a: 1\nb:\n  c:\n    - x\n    - {d: 2}\n", "f")
    assert document.data == {"a": 1, "b": {"c": ["x", {"d": 2}]}}
    lines = {loc: document.place(loc).line for loc in [("a",), ("b",), ("b", "c"), ("b", "c", 1), ("b", "c", 1, "d")]}
    assert list(lines.values()) == [1, 2, 3, 5, 5]
    assert document.place(("b", "gone", "deeper")) == Place("f", 2)
    assert document.place(("gone",)) == Place("f", 1)


def test_duplicate_keys_name_both_lines() -> None:
    assert refused("a: 1\nb: {c: 1,\n  c: 2}\na: 3\n") == [
        (3, "b.c", "is there twice, first on line 2; keep one of them"),
        (4, "a", "is there twice, first on line 1; keep one of them"),
    ]


def test_keys_are_texts_as_written() -> None:
    assert read_yaml("{0.10: 1, true: 2, null: 3}", "f").data == {"0.10": 1, "true": 2, "null": 3}


def test_anchors_are_expanded() -> None:
    assert read_yaml("a: &x [1, 2]\nb: *x\n", "f").data == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
        "&a [*a]",
        "[" * 5000 + "]" * 5000,
        "[" + "x, " * (MAX_VALUES + 1) + "]",
    ],
    ids=["billion laughs", "itself", "deep", "long"],
)
def test_what_would_fill_memory_or_stack_is_refused(text: str) -> None:
    ((line, key, message),) = refused(text)
    assert (line, key) == (1, "")
    assert "nested too deeply or too large" in message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\n\tb: 2\n", 2, "indent with spaces"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "is no YAML"),
        ("a: 1\n b: 2\n", 2, "is no YAML"),
        ("a: 1\n---\nb: 2\n", 2, "has a second document"),
        ("a: *gone\n", 1, "undefined alias"),
        ("a: \x07\n", 1, "remove that character"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", 2, "is a tag"),
        ("a: 1\nb: !!python/name:os.system x\n", 2, "is a tag"),
        ("a: 1\nb: !!binary aGk=\n", 2, "is a tag"),
        ("a: !!int x\n", 1, "is no number"),
        (f"a: {'9' * 5000}\n", 1, "is no number that can be read"),
        ("? [a, b]\n: 1\n", 1, "as a key"),
    ],
)
def test_mistakes_have_their_line(text: str, line: int, message: str) -> None:
    found = refused(text)
    assert [each[0] for each in found] == [line]
    assert message in found[0][2]


def test_a_command_lines_value_has_no_line() -> None:
    document: Document = read_yaml("[1, {a: 2}]", "--set x", numbered=False)
    assert set(document.places.values()) == {Place("--set x", None)}
