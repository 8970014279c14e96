"""What a request wants of its answer's form, out of all the spellings that clients send.

    type            with                                            sent by
    text            nothing                                         everybody
    json_object     nothing; `value` or `schema`: a JSON schema     everybody; huggingface_hub, llama.cpp's users
    json_schema     `json_schema`: {name, schema, strict}           mistralai, openai, huggingface_hub
                    `value`: a schema, or {name, schema}            TGI
    json            `value`: a schema                               TGI
    regex           `value`: an expression                          TGI

A schema may be an object or a string that holds one as JSON, and is called `schema` or `schema_definition`. null is
"not given" everywhere. Pure values: nothing is compiled here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from octuor.errors import GrammarError
from octuor.grammar.wording import shown

JsonSchema: TypeAlias = Mapping[str, object] | bool
Kind = Literal["text", "json_object", "json_schema", "regex"]

MAX_TEXT = 1 << 18  # characters of a schema or an expression: what is longer is refused before it is read


@dataclass(frozen=True)
class AnswerFormat:
    """The form of an answer.

    kind     "text": any; "json_object": any JSON object; "json_schema" and "regex": as schema and pattern say
    schema   with "json_schema"
    pattern  with "regex": a regular expression for the whole answer
    name     what the request calls the schema, "" where it does not
    field    where the request has the schema or pattern, for messages
    """

    kind: Kind = "text"
    schema: JsonSchema | None = None
    pattern: str | None = None
    name: str = ""
    field: str = "response_format"


TEXT = AnswerFormat()


def read_response_format(value: object, field: str = "response_format") -> AnswerFormat:
    """The form that a chat or completion request asks for.

    Raises GrammarError naming the field of the request.
    """
    if value is None:
        return TEXT
    if not isinstance(value, Mapping):
        raise GrammarError(f'{field}: expected an object such as {{"type": "json_object"}}, found {shown(value)}')
    kind = value.get("type")
    if kind is None:
        kind = "json_schema" if value.get("json_schema") is not None else "text"
    if kind == "text":
        return TEXT
    if kind == "json_object":
        found = _first(value, field, "value", "schema", "schema_definition")
        if found is None or found[1] in ({}, ""):
            return AnswerFormat("json_object", field=field)
        return AnswerFormat("json_schema", _schema(found[1], found[0]), field=found[0])
    if kind in ("json_schema", "json"):
        return _named_schema(value, field)
    if kind == "regex":
        return _regex(value, field)
    raise GrammarError(f"{field}.type: expected text, json_object, json_schema, json or regex, found {shown(kind)}")


def read_tgi_grammar(value: object, field: str = "grammar") -> AnswerFormat:
    """The form that TGI's parameter `grammar` asks for: {"type": "json", "json_schema" or "regex", "value": ...}.

    Raises GrammarError naming the field of the request.
    """
    answer_format = read_response_format(value, field)
    if isinstance(value, Mapping) and (answer_format.kind == "text" or value.get("value") in (None, "", {})):
        raise GrammarError(f"{field}: expected type json or regex and a value that is not empty")
    return answer_format


def _named_schema(value: Mapping[str, object], field: str) -> AnswerFormat:
    found = _first(value, field, "json_schema", "value", "schema", "schema_definition")
    if found is None:
        raise GrammarError(f"{field}.json_schema: expected an object with name and schema, found none")
    where, given = found
    holder = _parsed(given, where)
    is_holder = where.endswith(".json_schema") or (isinstance(holder, Mapping) and _is_holder(holder))
    if not is_holder:
        return AnswerFormat("json_schema", _schema(holder, where), field=where)
    if not isinstance(holder, Mapping):
        raise GrammarError(f"{where}: expected an object with name and schema, found {shown(holder)}")
    name = holder.get("name")
    inner = _first(holder, where, "schema", "schema_definition")
    if inner is None and not _is_holder(holder) and "type" in holder:  # the schema itself, without its holder
        return AnswerFormat("json_schema", _schema(holder, where), field=where)
    if inner is None:
        return AnswerFormat("json_object", name=str(name or ""), field=where)
    return AnswerFormat("json_schema", _schema(inner[1], inner[0]), name=str(name or ""), field=inner[0])


def _is_holder(value: Mapping[str, object]) -> bool:
    """Whether a value is {name, schema} rather than a schema, which could have these two as unknown keywords."""
    given = {key for key, inner in value.items() if inner is not None}
    return bool(given & {"schema", "schema_definition"}) and given <= {
        *("schema", "schema_definition", "name", "strict", "description")
    }


def _regex(value: Mapping[str, object], field: str) -> AnswerFormat:
    found = _first(value, field, "value", "pattern", "regex")
    where, pattern = found or (f"{field}.value", None)
    if not isinstance(pattern, str) or not pattern:
        raise GrammarError(f"{where}: expected a regular expression, found {shown(pattern)}")
    if len(pattern) > MAX_TEXT:
        raise GrammarError(f"{where}: expected at most {MAX_TEXT} characters, found {len(pattern)}; shorten it")
    return AnswerFormat("regex", pattern=pattern, field=where)


def _schema(value: object, where: str) -> JsonSchema:
    schema = _parsed(value, where)
    if not isinstance(schema, Mapping | bool):
        raise GrammarError(f"{where}: expected a JSON schema, found {shown(schema)}")
    return schema


def _parsed(value: object, where: str) -> object:
    """A value, or what it holds if it is text: TGI's clients send schemas in both ways."""
    if not isinstance(value, str):
        return value
    if len(value) > MAX_TEXT:
        raise GrammarError(f"{where}: expected at most {MAX_TEXT} characters, found {len(value)}; shorten the schema")
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"{where}: expected a JSON schema, found text that is not JSON ({error})") from error


def _first(value: Mapping[str, object], field: str, *names: str) -> tuple[str, object] | None:
    """The first of names that is given, with where it is."""
    for name in names:
        if value.get(name) is not None:
            return f"{field}.{name}", value[name]
    return None
