"""What a schema becomes: never wider than it was, and refused where it cannot be held."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from octuor.errors import GrammarError
from octuor.grammar import GrammarCompiler
from octuor.grammar.schema import MAX_DEPTH, MAX_TEXT, prepare_schema

STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}
MAX_INTEGER = 2**63 - 1024


def properties(**inner: Any) -> dict[str, Any]:
    return {"type": "object", "properties": inner}


@pytest.mark.parametrize(
    ("schema", "is_closed"),
    [
        (properties(a=STRING), True),
        (properties(), True),
        ({"type": "object"}, False),
        ({**properties(a=STRING), "additionalProperties": True}, False),
        ({**properties(a=STRING), "patternProperties": {"b": {}}}, False),
        ({**properties(a=STRING), "required": ["a"]}, True),
        ({**properties(a=STRING), "required": ["b"]}, False),
        ({**properties(a=STRING), "allOf": [properties(b=STRING)]}, False),
        ({**properties(a=STRING), "anyOf": [{"required": ["a"]}]}, False),
    ],
)
def test_objects_get_no_names_but_the_listed_ones(schema: dict[str, Any], is_closed: bool) -> None:
    assert (prepare_schema(schema, "s").get("additionalProperties") is False) == is_closed


def test_only_what_stands_alone_is_closed() -> None:
    """One definition is used alone, another joined with more properties, a third in both ways."""
    schema = {
        **properties(a={"$ref": "#/$defs/A"}, b={"allOf": [{"$ref": "#/$defs/B"}, {"required": ["x"]}]}),
        "additionalProperties": {"anyOf": [{"$ref": "#/$defs/C"}, {"$ref": "#/$defs/C", "required": ["y"]}]},
        "$defs": {"A": properties(x=STRING), "B": properties(x=STRING, z=STRING), "C": properties(y=INTEGER)},
    }
    found = prepare_schema(schema, "s")["$defs"].values()
    closed = {json.dumps(sorted(d["properties"])): d.get("additionalProperties") is False for d in found}
    assert closed == {'["x"]': True, '["x", "z"]': False, '["y"]': False}


def test_branches_of_a_one_of_are_left_as_they_are() -> None:
    """Narrower branches could look disjoint that are not."""
    branches = [properties(a=INTEGER), {**properties(b=STRING), "required": ["b"]}]
    assert prepare_schema({"oneOf": branches}, "s") == {"oneOf": branches}


@pytest.mark.parametrize("inner", [{"const": "c"}, {"enum": ["c", "d"]}])
def test_a_property_that_tells_branches_apart_is_required(inner: dict[str, Any]) -> None:
    schema = {"oneOf": [properties(kind={"const": "x"}), properties(kind=inner), {"type": "null"}]}
    found = prepare_schema(schema, "s")
    assert [branch.get("required") for branch in found["anyOf"]] == [["kind"], ["kind"], None]


@pytest.mark.parametrize(
    "branches",
    [
        [properties(kind={"const": "x"}), properties(kind={"enum": ["x", "y"]})],
        [properties(kind={"const": "x"}), properties(kind=STRING)],
        [properties(kind={"const": "x"}), {"properties": {"kind": {"const": "y"}}}],
        [INTEGER, {"type": "number"}],
    ],
)
def test_branches_that_may_hold_together_stay_a_one_of(branches: list[Any]) -> None:
    assert "oneOf" in prepare_schema({"oneOf": branches}, "s")


def test_a_one_of_inside_another_is_not_narrowed() -> None:
    """The outer one cannot be decided, so the inner one's properties may not become required."""
    inner = {"oneOf": [properties(kind={"const": "x"}), properties(kind={"const": "y"})]}
    found = prepare_schema({"oneOf": [{"items": inner}, {"minimum": 1}]}, "s")
    assert found["oneOf"][0]["items"] == inner


def test_references_that_turn_in_a_one_of() -> None:
    """A branch that leads back to the oneOf is not written out again."""
    tree = {"oneOf": [{"$ref": "#"}, {"minLength": 3}]}
    found = prepare_schema({"type": "array", "items": tree}, "s")
    assert found["items"]["oneOf"][0] == {"$ref": "#"}


@pytest.mark.parametrize(
    ("schema", "low", "high"),
    [
        (INTEGER, -MAX_INTEGER, MAX_INTEGER),
        ({**INTEGER, "minimum": 0}, 0, MAX_INTEGER),
        ({**INTEGER, "minimum": -(2**63), "maximum": 2**63 - 1}, -MAX_INTEGER, MAX_INTEGER),
        ({**INTEGER, "minimum": 2**53 + 1, "maximum": 2**60 + 1}, 2**53 + 2, 2**60),
        ({"type": "number", "minimum": -1e300, "maximum": 1e300}, -MAX_INTEGER, MAX_INTEGER),
        ({"type": ["integer", "null"], "maximum": 7}, -MAX_INTEGER, 7),
        ({"type": ["integer", "number"]}, None, None),
        ({"type": "number"}, None, None),
    ],
)
def test_bounds_are_rounded_inward(schema: dict[str, Any], low: int | None, high: int | None) -> None:
    found = prepare_schema(schema, "s")
    assert (found.get("minimum"), found.get("maximum")) == (low, high)


def test_exclusive_bounds_are_kept() -> None:
    schema = {**INTEGER, "exclusiveMinimum": 1, "exclusiveMaximum": 3}
    assert prepare_schema(schema, "s") == schema
    assert prepare_schema({**INTEGER, "minimum": 1, "exclusiveMinimum": True}, "s")["exclusiveMinimum"] is True


def test_what_holds_nothing_is_dropped() -> None:
    schema = {
        "title": "t",
        "description": "d",
        "default": 1,
        "examples": [1],
        "x-guidance": {"lenient": True},
        "type": "string",
        "format": "password",
        "nullable": True,
        "uniqueItems": False,
        "then": {},
        "minContains": 1,
        "$schema": "https://example.com/own",
        "$comment": "c",
        "unevaluatedItems": True,
        "$defs": {"unused": {}},
    }
    assert prepare_schema(schema, "s") == {"type": "string"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"type": "string"}, {"type": "object", "additionalProperties": INTEGER}),
        ({"enum": ["a", "b"]}, {"properties": {"a": INTEGER, "b": INTEGER}}),
        ({"const": "a"}, {"properties": {"a": INTEGER}}),
        ({"type": "string", "pattern": "^a"}, {"patternProperties": {"^a": INTEGER}}),
        ({"$ref": "#/$defs/n"}, {"properties": {"x": INTEGER}}),
    ],
)
def test_property_names(names: dict[str, Any], expected: dict[str, Any]) -> None:
    integer = {**INTEGER, "minimum": 0, "maximum": 9}
    schema = {
        "type": "object",
        "additionalProperties": integer,
        "propertyNames": names,
        "$defs": {"n": {"enum": ["x"]}},
    }
    found = prepare_schema(schema, "s")
    found.pop("$defs", None)
    rest = {} if "additionalProperties" in expected else {"additionalProperties": False}
    wanted = {"type": "object", **expected, **rest}
    assert found == json.loads(json.dumps(wanted).replace(json.dumps(INTEGER), json.dumps(integer)))


def nested(n: int) -> Any:
    schema: Any = STRING
    for _ in range(n):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (False, "s: .*false"),
        ({"not": {}}, r"s\.not: expected a keyword"),
        (properties(a={"if": {}, "then": {}}), "s.properties.a.if: "),
        ({"items": {"contains": {}}}, "s.items.contains: "),
        ({"anyOf": [{}, {"dependentRequired": {"a": ["b"]}}]}, r"s.anyOf\[1\].dependentRequired: "),
        ({"unevaluatedProperties": False}, "s.unevaluatedProperties: "),
        ({"uniqueItems": True}, "s.uniqueItems: "),
        ({"$dynamicRef": "#a"}, r"s.\$dynamicRef: "),
        ({"propertyNames": {"minLength": 2}}, "s.propertyNames: .*names"),
        ({**properties(a={}), "propertyNames": {"enum": ["a"]}}, "s.propertyNames: .*names"),
        ({"type": "text"}, "s.type: .*null, boolean.*'text'"),
        ({"type": ["string", 3]}, "s.type: .*3"),
        ({"required": "a"}, "s.required: .*list of names"),
        ({"required": [1]}, "s.required: .*list of names"),
        ({"maxLength": -1}, "s.maxLength: .*whole number"),
        ({"maxLength": 1.5}, "s.maxLength: .*whole number"),
        ({"minItems": "2"}, "s.minItems: .*whole number"),
        ({"minimum": "2"}, "s.minimum: .*number"),
        ({"minimum": True}, "s.minimum: .*number"),
        ({"minimum": 2**70}, "s.minimum: .*64 bits"),
        ({"multipleOf": 0}, "s.multipleOf: .*above 0"),
        ({"multipleOf": True}, "s.multipleOf: .*above 0"),
        ({"pattern": 3}, "s.pattern: "),
        ({"enum": "a"}, "s.enum: .*list of values"),
        ({"const": 2**53 + 1}, "s.const: .*text"),
        ({"enum": [{"a": [1e300]}]}, "s.enum: .*text"),
        ({"const": "a\x01"}, "s.const: .*control"),
        ({"minProperties": 2}, "s.minProperties: .*repeat"),
        ({"properties": []}, "s.properties: .*object of schemas"),
        ({"properties": {"a": 3}}, "s.properties.a: .*3"),
        ({"items": "x"}, "s.items: .*JSON schema"),
        ({"anyOf": []}, "s.anyOf: .*list of schemas"),
        ({"allOf": {}}, "s.allOf: .*list of schemas"),
        ({"$ref": "http://x/y"}, r"s.\$ref: .*http://x/y"),
        ({"$ref": "#/$defs/none"}, r"s.\$ref: .*none"),
        ({"$ref": "#none"}, r"s.\$ref: .*none"),
        ({"$ref": 3}, r"s.\$ref: .*3"),
        ({"$ref": "#"}, "s: .*itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "s.*: .*itself"),
        ({"anyOf": [{}, {"allOf": [{"$ref": "#"}]}]}, "s: .*itself"),
        (
            {"$ref": "#/$defs/0", "$defs": {"99": {}, **{str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(99)}}},
            "row",
        ),
        ({"items": {"$id": "x"}}, r"s.items.\$id: .*root"),
        ({"minimum": float("nan")}, "s: .*JSON"),
        ({"maximum": float("inf")}, "s: .*JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals_name_the_place(schema: Any, message: str) -> None:
    with pytest.raises(GrammarError, match=message) as error:
        prepare_schema(schema, "s")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nested(MAX_DEPTH), "s: .*levels"),
        (lambda: nested(100_000), "s: .*levels"),
        (lambda: {"enum": ["x" * MAX_TEXT]}, "s: .*characters"),
        (lambda: {"enum": [0] * 5_000_000}, "s: .*characters"),
        (lambda: {"anyOf": [{} for _ in range(20_000)]}, "s: .*10000 schemas"),
    ],
    ids=["deep", "very deep", "long", "very long", "many"],
)
def test_what_is_too_large_is_refused_before_it_is_walked(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        prepare_schema(make(), "s")


MANY = {"enum": [str(n) for n in range(2000)]}


def growing(n: int) -> dict[str, Any]:
    """Each definition has the next one twice in a oneOf that nothing decides."""
    definitions: dict[str, Any] = {f"d{n}": {"minimum": 1}}
    for index in range(n):
        twice = [{"$ref": f"#/$defs/d{index + 1}"}, {"$ref": f"#/$defs/d{index + 1}"}]
        definitions[f"d{index}"] = {"items": {"oneOf": twice}}
    return {"$ref": "#/$defs/d0", "$defs": definitions}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: growing(40), "s: .*grows"),
        (lambda: {"propertyNames": MANY, "additionalProperties": MANY}, "s.propertyNames: .*fewer names"),
        (
            lambda: properties(**{"n" * 100_000: properties(**dict.fromkeys(map(str, range(9000)), 3))}),
            r"s\.properties\.n+\.\.",
        ),
        (
            lambda: {
                "oneOf": [
                    properties(**{str(n): {} for n in range(8000)}),
                    *({"properties": {}, "type": "object", "not": {}} for _ in range(999)),
                ]
            },
            r"s.oneOf\[1\]",
        ),
    ],
    ids=["references", "names", "paths", "branches"],
)
def test_what_would_grow_is_refused_in_time(make: Callable[[], Any], message: str) -> None:
    began = time.process_time()
    with pytest.raises(GrammarError, match=message) as error:
        prepare_schema(make(), "s")
    assert time.process_time() - began < 5
    assert len(str(error.value)) < 300


def test_the_deepest_that_is_taken_compiles(compiler: GrammarCompiler) -> None:
    assert compiler.json_schema(nested(MAX_DEPTH - 1)).matcher().mask().any()


def test_the_schema_that_was_given_is_not_changed() -> None:
    schema = {"oneOf": [properties(kind={"const": "x"}, d={"format": "date"}), properties(kind={"const": "y"})]}
    before = json.dumps(schema)
    prepare_schema(schema, "s")
    assert json.dumps(schema) == before
