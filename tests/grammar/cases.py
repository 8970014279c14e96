"""A JSON schema for each thing that answers can be held to, by what it shows."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}


def _optional(**properties: Any) -> Schema:
    return {"type": "object", "properties": properties}


def _object(**properties: Any) -> Schema:
    return {**_optional(**properties), "required": list(properties)}


SCHEMAS: dict[str, Schema | bool] = {
    "any": True,
    "empty": {},
    "title only": {"title": "x"},
    "null": {"type": "null"},
    "boolean": {"type": "boolean"},
    "string": STRING,
    "integer": INTEGER,
    "number": {"type": "number"},
    "array": {"type": "array"},
    "object": {"type": "object"},
    "types": {"type": ["string", "null", "integer"]},
    "closed": _object(a=STRING, b=INTEGER),
    "optional": _optional(a=STRING, b=INTEGER, c={"type": "boolean"}),
    "open": {**_optional(a=INTEGER), "additionalProperties": {"type": "boolean"}},
    "open any": {**_optional(a=INTEGER, b=STRING), "additionalProperties": True},
    "undeclared required": {"type": "object", "required": ["x", "y"]},
    "nested": _object(a=_object(b=_object(c={"type": "array", "items": _object(d=INTEGER)}))),
    "enum": {"enum": ["red", "green", 1, 2.5, None, True, False, [1, "x"], {"a": []}]},
    "enum typed": {"type": "string", "enum": ["a", "b", "c d", "é", '"quoted"', "back\\slash", "new\nline"]},
    "const": _object(
        kind={"const": "x"},
        version={"const": 1},
        flag={"const": True},
        nothing={"const": None},
        ratio={"const": 0.25},
        neg={"const": -1.5e-3},
    ),
    "const object": {"const": {"b": [1, {"c": "d"}], "a": "é"}},
    "anyOf": {"anyOf": [STRING, INTEGER, _object(a=STRING)]},
    "anyOf joined": {
        "type": "object",
        "properties": {"a": STRING, "b": INTEGER},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "oneOf types": {"oneOf": [STRING, INTEGER, {"type": "array", "items": STRING}]},
    "oneOf by constant": {
        "oneOf": [_object(kind={"const": "cat"}, lives=INTEGER), _object(kind={"const": "dog"}, name=STRING)]
    },
    "oneOf by optional constant": {
        "oneOf": [_optional(kind={"const": "cat"}, lives=INTEGER), _optional(kind={"const": "dog"}, name=STRING)]
    },
    "oneOf by reference": {
        "type": "array",
        "minItems": 1,
        "maxItems": 4,
        "items": {"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}, {"type": "null"}]},
        "$defs": {
            "Cat": {
                "type": "object",
                "properties": {"kind": {"const": "cat", "type": "string"}, "lives": INTEGER},
                "required": ["kind"],
            },
            "Dog": {
                "type": "object",
                "properties": {
                    "kind": {"enum": ["dog", "wolf"]},
                    "friends": {"type": "array", "items": {"$ref": "#/$defs/Dog"}},
                },
            },
        },
    },
    "oneOf and anyOf": {
        "type": "integer",
        "anyOf": [{"maximum": 4}, {"minimum": 9}],
        "oneOf": [{"type": "integer", "minimum": 3}, {"type": "string"}],
    },
    "anyOf after oneOf": {"oneOf": [INTEGER, {"type": "null"}], "anyOf": [{"type": "null"}], "allOf": [{}]},
    "oneOf exclusive": {
        "oneOf": [
            {**_object(a=INTEGER), "additionalProperties": False},
            {**_object(b=INTEGER), "additionalProperties": False},
        ]
    },
    "allOf": {"allOf": [_object(a=STRING), _object(b=INTEGER)]},
    "allOf one": {"allOf": [{"$ref": "#/definitions/P"}], "definitions": {"P": _object(x=INTEGER)}},
    "allOf and own": {
        "allOf": [{"$ref": "#/$defs/Base"}],
        "type": "object",
        "properties": {"own": STRING},
        "required": ["own"],
        "$defs": {"Base": _object(id=INTEGER)},
    },
    "allOf bounds": {"type": "integer", "allOf": [{"minimum": 3}, {"maximum": 12}, {"multipleOf": 3}]},
    "ref": {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": INTEGER}},
    "ref with siblings": {
        "$ref": "#/$defs/P",
        "description": "d",
        "required": ["y"],
        "$defs": {"P": _optional(x=INTEGER, y=INTEGER)},
    },
    "ref anchor": {"$ref": "#point", "$defs": {"p": {"$anchor": "point", **_object(x={"type": "number"})}}},
    "ref elsewhere": {
        "$ref": "#/components/schemas/P",
        "components": {"schemas": {"P": _object(q={"$ref": "#/components/schemas/Q"}), "Q": {"enum": [1, 2]}}},
    },
    "ref chain": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": STRING}},
    "tree": {
        "$ref": "#/$defs/Node",
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {
                    "value": INTEGER,
                    "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}, "maxItems": 2},
                },
                "required": ["value"],
            }
        },
    },
    "list": {
        "$defs": {
            "L": {
                "type": "object",
                "properties": {"head": INTEGER, "tail": {"anyOf": [{"$ref": "#/$defs/L"}, {"type": "null"}]}},
                "required": ["head", "tail"],
            }
        },
        "$ref": "#/$defs/L",
    },
    "root recursion": {"type": "object", "properties": {"next": {"$ref": "#"}}},
    "mutual": {
        "$defs": {"A": _optional(b={"$ref": "#/$defs/B"}), "B": _optional(a={"$ref": "#/$defs/A"})},
        "$ref": "#/$defs/A",
    },
    "min items": {"type": "array", "items": INTEGER, "minItems": 3},
    "max items": {"type": "array", "items": STRING, "maxItems": 2},
    "exact items": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
    "no items": {"type": "array", "maxItems": 0},
    "tuple": {"type": "array", "prefixItems": [STRING, INTEGER], "items": False, "minItems": 2},
    "tuple and rest": {"type": "array", "prefixItems": [STRING, INTEGER], "items": {"type": "boolean"}},
    "tuple of draft 7": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [STRING, INTEGER],
        "additionalItems": False,
        "minItems": 1,
    },
    "unique one": {"type": "array", "items": INTEGER, "uniqueItems": True, "maxItems": 1},
    "lengths": {"type": "string", "minLength": 2, "maxLength": 5},
    "length unicode": {"type": "string", "minLength": 3, "maxLength": 3},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
    "pattern unanchored": {"type": "string", "pattern": "b+c", "maxLength": 7},
    "pattern half anchored": {"type": "string", "pattern": "^ab|yz$", "maxLength": 8},
    "pattern javascript": {
        "type": "string",
        "pattern": '^[^<>()[\\]\\\\.,;:\\s@"]+@[a-z]+\\.(com|org)\\/$',
        "maxLength": 16,
    },
    "pattern escapes": {"type": "string", "pattern": "^\\u00e9\\x41\\d\\w\\.\\-$"},
    "pattern and length": {"type": "string", "pattern": "^[a-z]*$", "minLength": 4, "maxLength": 6},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "date-time": {"type": "string", "format": "date-time"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "ipv6": {"type": "string", "format": "ipv6"},
    "uuid": {"type": "string", "format": "uuid"},
    "email": {"type": "string", "format": "email", "maxLength": 12},
    "uri": {"type": "string", "format": "uri", "maxLength": 16},
    "duration": {"type": "string", "format": "duration"},
    "hostname": {"type": "string", "format": "hostname"},
    "unknown format": {"type": "integer", "format": "int64"},
    "range": {"type": "integer", "minimum": -5, "maximum": 17},
    "range open": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "range of draft 4": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "number",
        "minimum": 1.5,
        "exclusiveMinimum": True,
        "maximum": 7,
    },
    "range half": {"type": "number", "minimum": -0.75},
    "range 64 bits": {"type": "integer", "minimum": -9223372036854775808, "maximum": 9223372036854775807},
    "range large": {"type": "integer", "minimum": 9007199254740993},
    "range js": {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 0},
    "multiple decimal": {"type": "number", "multipleOf": 0.25, "minimum": -3, "maximum": 3},
    "pattern properties": {
        "type": "object",
        "patternProperties": {"^n_": INTEGER, "^s_": STRING},
        "additionalProperties": False,
    },
    "pattern and named": {
        "type": "object",
        "properties": {"n_a": {"maximum": 5}},
        "patternProperties": {"^n_": INTEGER},
        "required": ["n_a"],
    },
    "property names": {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": INTEGER},
    "property names pattern": {
        "type": "object",
        "propertyNames": {"pattern": "^[a-c]+$"},
        "additionalProperties": INTEGER,
    },
    "property names any": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": INTEGER},
    "min properties": {"type": "object", "minProperties": 1, "additionalProperties": INTEGER},
    "max properties": {"type": "object", "maxProperties": 2, "additionalProperties": INTEGER},
    "min one listed": {**_optional(a=INTEGER, b=STRING), "minProperties": 1},
    "odd names": _object(
        **{
            "a b": INTEGER,
            "é": STRING,
            'q"': INTEGER,
            "b\\s": INTEGER,
            "": INTEGER,
            "n\nl": INTEGER,
            "日本": INTEGER,
            "$ref2": INTEGER,
        }
    ),
    "free names beside odd ones": {**_optional(**{"é": INTEGER, "a/b": INTEGER}), "additionalProperties": STRING},
    "unicode": {"type": "string", "pattern": "^[α-ω]{3}😀$"},
    "impossible option": {"anyOf": [{"type": "integer", "minimum": 5, "maximum": 4}, STRING]},
    "impossible property": {**_optional(a=False, b=INTEGER), "required": ["b"]},
    "annotations": {
        "title": "T",
        "description": "d",
        "default": {"a": 1},
        "examples": [{}],
        "x-y": 1,
        "nullable": True,
        **_object(a={**INTEGER, "deprecated": True, "example": 3}),
    },
    "no type": {"properties": {"a": INTEGER}, "minLength": 2, "items": STRING, "minimum": 3},
    "x-guidance": {
        "x-guidance": {"lenient": True, "whitespace_flexible": True},
        "type": "array",
        "items": INTEGER,
        "maxItems": 2,
    },
}
