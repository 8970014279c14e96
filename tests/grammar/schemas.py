"""JSON schemas drawn by hypothesis, of the keywords that answers can be held to."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

_NAMES = st.sampled_from(["a", "b", "c", "é", "x y", 'q"', "a/b"])
_TEXTS = st.text(st.sampled_from('ab é"\\\n😀/'), max_size=4)
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-1000, 1000), st.floats(-8, 8, width=16).map(lambda x: round(x, 3)), _TEXTS
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(_NAMES, inner, max_size=2)),
    max_leaves=3,
)
_PATTERNS = st.sampled_from(["^a", "b$", "^[ab]{1,3}$", "a|é", "^(x y|z)+$", r"^\d+\.\d$"])


@st.composite
def _number(draw: st.DrawFn) -> Schema:
    schema: Schema = {"type": draw(st.sampled_from(["integer", "number"]))}
    low = draw(st.integers(-50, 50))
    bounds = {
        draw(st.sampled_from(["minimum", "exclusiveMinimum"])): low,
        draw(st.sampled_from(["maximum", "exclusiveMaximum"])): low + draw(st.integers(0, 100)),
        "multipleOf": draw(st.sampled_from([1, 2, 7, 0.5])),
    }
    return schema | {key: bounds[key] for key in draw(st.sets(st.sampled_from(sorted(bounds))))}


@st.composite
def _string(draw: st.DrawFn) -> Schema:
    schema: Schema = {"type": "string", "maxLength": draw(st.integers(0, 6))}
    if draw(st.booleans()):
        schema["minLength"] = draw(st.integers(0, 4))
    if draw(st.booleans()):
        schema["pattern"] = draw(_PATTERNS)
    return schema


@st.composite
def _array(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    schema: Schema = {"type": "array", "maxItems": draw(st.integers(0, 3))}
    if draw(st.booleans()):
        schema["items"] = draw(inner)
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=2))
    if draw(st.booleans()):
        schema["minItems"] = draw(st.integers(0, 3))
    return schema


@st.composite
def _object(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    schema: Schema = {"type": "object", "properties": draw(st.dictionaries(_NAMES, inner, max_size=3))}
    if draw(st.booleans()):
        schema["required"] = draw(st.lists(_NAMES, max_size=2, unique=True))
    if draw(st.booleans()):
        schema["additionalProperties"] = draw(st.one_of(st.booleans(), inner))
    if draw(st.booleans()):
        schema["patternProperties"] = {draw(st.sampled_from(["^a", "y$"])): draw(inner)}
    if draw(st.integers(0, 3)) == 0:
        schema["minProperties"] = draw(st.integers(0, 2))
    if draw(st.integers(0, 3)) == 0:
        schema["maxProperties"] = draw(st.integers(0, 3))
    return schema


@st.composite
def _joined(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    schema = {draw(st.sampled_from(["anyOf", "oneOf", "allOf"])): draw(st.lists(inner, min_size=1, max_size=3))}
    return {**draw(inner), **schema} if draw(st.booleans()) else schema


_LEAVES = st.one_of(
    _number(),
    _string(),
    st.sampled_from([{}, {"type": "boolean"}, {"type": "null"}, {"type": ["string", "integer", "null"]}]),
    st.lists(_VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    _VALUES.map(lambda value: {"const": value}),
    st.sampled_from([{"$ref": "#/$defs/p"}, {"$ref": "#/$defs/q"}]),
)
_INNER: st.SearchStrategy[Schema] = st.recursive(
    _LEAVES, lambda inner: st.one_of(_array(inner), _object(inner), _joined(inner)), max_leaves=5
)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """A schema with two definitions that it, and they, may refer to."""
    return {**draw(_INNER), "$defs": {"p": draw(_INNER), "q": draw(_INNER)}}
