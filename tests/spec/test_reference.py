from pathlib import Path

import pytest

from ssl_sweep.knobs import knobs
from ssl_sweep.spec.reference import BEGIN, END, main, reference, rewritten, type_text

PAGE = Path(__file__).parents[2] / "experiments" / "SPEC.md"


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 0.5}, "number ≥ 0, < 0.5"),
        ({"type": "integer", "exclusiveMinimum": 0, "maximum": 9}, "whole number > 0, ≤ 9"),
        ({"type": "boolean"}, "true or false"),
        ({"enum": ["a", "b", "c"]}, "`a`, `b` or `c`"),
        ({"const": "a"}, "`a`"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "whole number or null"),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, "number"),
        ({"type": "array", "items": {"type": "string"}}, "list of text"),
        ({"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}]}, "list of number, text"),
        ({"type": "object"}, "mapping"),
        ({"$ref": "#/$defs/Search"}, "mapping"),
    ],
)
def test_types_in_words(schema: dict[str, object], text: str) -> None:
    assert type_text(schema) == text


def test_every_section_and_knob_has_its_row() -> None:
    text = reference()
    assert "| `overlay_alpha` | number ≥ 0, < 0.5 | `0.0` |" in text
    assert "| `source` | text | required |" in text
    for section in ("data", "views", "pretrain", "health", "search", "resources", "tracking", "table"):
        assert f"## `{section}`\n" in text
    for name in (*knobs.names("methods"), *knobs.names("encoders"), *knobs.names("evaluations")):
        assert f"`{name}`" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {5}


def test_only_what_is_between_the_markers_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "SPEC.md"
    path.write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n", encoding="utf-8")
    main(path)
    once = path.read_text(encoding="utf-8")
    assert once == f"before\n{BEGIN}\n{reference()}\n{END}\nafter\n"
    main(path)
    assert path.read_text(encoding="utf-8") == once


@pytest.mark.parametrize("text", ["nothing", BEGIN, f"{END} {BEGIN}"])
def test_missing_markers_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="spec:begin"):
        rewritten(text)


def test_the_reference_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == rewritten(text), "run: make docs"
