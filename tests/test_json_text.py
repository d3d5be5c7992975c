"""Reading JSON that may be damaged: the line of each value is found, whatever the text looks like."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percpu_lab.errors import CaseError
from percpu_lab.json_text import line_of, read_object

TEXT = r"""
{"name": "a \"{ [1,\n 2]\" b", "size": 1,

 "inner":
   {"size": 2, "list": [3, 4,
                        5], "size ": 6},
 "groups": [{"size": 7}, {
   "size"
   :
   8}], "none": {}, "last": []}
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("", 2),
        ("name", 2),
        ("size", 2),
        ("inner", 4),
        ("inner.size", 5),
        ("inner.list[0]", 5),
        ("inner.list[2]", 6),
        ('inner."size "', 6),
        ("groups[0].size", 7),
        ("groups[1]", 7),
        ("groups[1].size", 8),
        ("none", 10),
        ("last", 10),
    ],
)
def test_a_value_is_found_on_its_line_though_others_have_the_same_key(path: str, line: int) -> None:
    assert line_of(TEXT, path) == line


@pytest.mark.parametrize(
    ("path", "line"),
    [("gone", 2), ("inner.gone", 4), ("inner.list[3]", 5), ("groups[1].gone", 7), ("groupsize", 2), ("none.gone", 10)],
)
def test_of_a_value_that_is_missing_the_line_is_that_of_what_lacks_it(path: str, line: int) -> None:
    assert line_of(TEXT, path) == line


_keys = st.text('ab."[]{}:,\\ \n', max_size=4)
_documents = st.recursive(
    st.none() | st.integers() | st.booleans() | st.floats(allow_nan=False) | _keys,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=15,
)


def _places(value: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Every value of a document below the whole: its path, what holds it, and under which key or index."""
    places = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        if isinstance(value, list):
            here = f"{path}[{key}]"
        else:
            word = key if key.isidentifier() else json.dumps(key)
            here = f"{path}.{word}" if path else word
        places += [(here, value, key), *_places(inner, here)]
    return places


@given(_documents, st.data())
def test_any_value_of_any_document_is_found(document: Any, data: st.DataObject) -> None:
    places = _places(document)
    if not places:
        return
    text = json.dumps(document, indent=1)
    path, holder, key = data.draw(st.sampled_from(places))
    holder[key] = "here it is"
    marked = json.dumps(document, indent=1)
    assert line_of(text, path) == marked[: marked.index('"here it is"')].count("\n") + 1


def test_a_whole_object_is_read_as_it_stands() -> None:
    assert read_object(TEXT, "case.json") == json.loads(TEXT)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"a": 1,\n"b": {"a": 2},\n"a": 3}', "case.json line 3, a"),
        ('{"a": [{"b": 1},\n{"b": 1,\n"b": 1}]}', "case.json line 3, a[1].b"),
        ('{"a":\n{"b": 1}, "a":\n{"b": 1}}', "case.json line 2, a"),
        ('{"a b": 1,\n"a b": 1}', 'case.json line 2, "a b"'),
    ],
)
def test_a_key_that_stands_twice_in_one_object_is_named(text: str, where: str) -> None:
    with pytest.raises(CaseError, match="a second time") as caught:
        read_object(text, "case.json")
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ('{\n"a": 1,\n"b"}', 3),
        ('{\n"a": 1', 2),
        ("\n\n[]", 3),
        ("\n7", 2),
        ('{"a": 1,\n"b": ' + "1" * 5000 + "}", 2),
        ('{"a": 1,\n"b": \n' + "[" * 50_000 + "]" * 50_000 + "}", 3),
        ('{"a": 1,\n"b": \n' + '{"c":' * 50_000, 3),
    ],
)
def test_what_is_no_object_is_named_by_line(text: str, line: int) -> None:
    with pytest.raises(CaseError) as caught:
        read_object(text, "case.json")
    assert caught.value.where == f"case.json line {line}"
