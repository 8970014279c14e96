"""Every spelling that clients have for the form of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from octuor.errors import GrammarError
from octuor.grammar import TEXT, AnswerFormat, read_response_format, read_tgi_grammar
from octuor.grammar.response_format import MAX_TEXT

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"schema": {"type": "string"}}, "required": ["schema"]}
ANY_OBJECT = AnswerFormat("json_object")


def schema_at(field: str, name: str = "") -> AnswerFormat:
    return AnswerFormat("json_schema", SCHEMA, name=name, field=f"response_format.{field}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, TEXT),
        ({"type": "text"}, TEXT),
        ({"type": None, "json_schema": None}, TEXT),  # mistralai: both may be null
        ({}, TEXT),
        ({"type": "json_object"}, ANY_OBJECT),
        ({"type": "json_object", "json_schema": None, "value": None}, ANY_OBJECT),
        ({"type": "json_object", "schema": {}}, ANY_OBJECT),
        # huggingface_hub makes this of a schema, llama.cpp's users write that
        ({"type": "json_object", "value": SCHEMA}, schema_at("value")),
        ({"type": "json_object", "schema": SCHEMA}, schema_at("schema")),
        # openai, mistralai, huggingface_hub
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
            schema_at("json_schema.schema", "n"),
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema_definition": SCHEMA}},
            schema_at("json_schema.schema_definition", "n"),
        ),
        ({"json_schema": {"name": "n", "schema": SCHEMA}}, schema_at("json_schema.schema", "n")),
        ({"type": "json_schema", "json_schema": {"schema": json.dumps(SCHEMA)}}, schema_at("json_schema.schema")),
        ({"type": "json_schema", "json_schema": SCHEMA}, schema_at("json_schema")),
        ({"type": "json_schema", "schema": SCHEMA}, schema_at("schema")),
        # TGI
        ({"type": "json", "value": SCHEMA}, schema_at("value")),
        ({"type": "json", "value": json.dumps(SCHEMA)}, schema_at("value")),
        ({"type": "json_schema", "value": SCHEMA}, schema_at("value")),
        ({"type": "json_schema", "value": {"name": "n", "schema": SCHEMA}}, schema_at("value.schema", "n")),
        ({"type": "json_schema", "value": json.dumps({"schema": SCHEMA})}, schema_at("value.schema")),
        (
            {"type": "regex", "value": r"\d+"},
            AnswerFormat("regex", pattern=r"\d+", field="response_format.value"),
        ),
    ],
    ids=lambda value: json.dumps(value)[:50] if not isinstance(value, AnswerFormat) else value.kind,
)
def test_spellings(value: object, expected: AnswerFormat) -> None:
    assert read_response_format(value) == expected


def test_a_name_without_a_schema_is_any_object() -> None:
    found = read_response_format({"type": "json_schema", "json_schema": {"name": "n", "schema": None}})
    assert (found.kind, found.name) == ("json_object", "n")


@pytest.mark.parametrize("schema", [True, False, {}])
def test_the_smallest_schemas(schema: object) -> None:
    found = read_response_format({"type": "json_schema", "json_schema": {"schema": schema}})
    assert (found.kind, found.schema) == ("json_schema", schema)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("json_object", "response_format: .*an object"),
        ([], "response_format: .*a list"),
        ({"type": "xml"}, "response_format.type: .*'xml'"),
        ({"type": 3}, "response_format.type: .*3"),
        ({"type": [[]]}, "response_format.type: .*a list"),
        ({"type": "json_schema"}, "response_format.json_schema: .*none"),
        ({"type": "json_schema", "json_schema": 3}, "response_format.json_schema: .*3"),
        ({"type": "json_schema", "json_schema": {"schema": 3}}, "response_format.json_schema.schema: .*3"),
        ({"type": "json_schema", "json_schema": {"schema": "{"}}, "json_schema.schema: .*not JSON"),
        ({"type": "json_schema", "json_schema": {"schema": "[" * 100_000}}, "json_schema.schema: .*not JSON"),
        ({"type": "json_schema", "json_schema": {"schema": " " * (MAX_TEXT + 1)}}, "json_schema.schema: .*characters"),
        ({"type": "json", "value": "true or false"}, "response_format.value: .*not JSON"),
        ({"type": "regex"}, "response_format.value: .*null"),
        ({"type": "regex", "value": ""}, "response_format.value: .*''"),
        ({"type": "regex", "value": {"a": 1}}, "response_format.value: .*an object"),
        ({"type": "regex", "value": "a" * (MAX_TEXT + 1)}, "response_format.value: .*characters"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_is_no_format(value: object, message: str) -> None:
    with pytest.raises(GrammarError, match=message) as error:
        read_response_format(value)
    assert len(str(error.value)) < 300


def test_tgi_grammar() -> None:
    assert read_tgi_grammar(None) == TEXT
    found = read_tgi_grammar({"type": "json", "value": SCHEMA})
    assert found == AnswerFormat("json_schema", SCHEMA, field="grammar.value")
    assert read_tgi_grammar({"type": "regex", "value": "a"}).field == "grammar.value"


@pytest.mark.parametrize("value", [{"type": "json"}, {"type": "json", "value": {}}, {"type": "text"}, {}, "json"])
def test_tgi_grammar_needs_a_value(value: object) -> None:
    with pytest.raises(GrammarError, match="grammar"):
        read_tgi_grammar(value)
