"""A request's JSON schema in the form that the compiler holds answers to, or a GrammarError that names the place.

What answers may be is only ever narrowed here, so all that comes out is valid under the schema as it was sent:

- An object that lists `properties` and does not speak of others gets no others, as on the servers that people come
  from: weak models would invent them without end. Not where several schemas are joined (allOf and the like), whose
  lists would exclude each other, nor where additionalProperties is given.
- Integers without bounds stay within 64 bits; bounds beyond 2^53 are rounded inward to what a float64 holds.
- Dates are days of the calendar, times have seconds up to 59 and fractions of six digits at most.
- oneOf becomes anyOf where a property tells the branches apart; the property is then required.

Keywords that hold nothing (descriptions, unknown ones, formats that nobody here knows) are dropped, as JSON Schema
says. Keywords that answers cannot be held to are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from octuor.errors import GrammarError
from octuor.grammar.patterns import to_rust
from octuor.grammar.response_format import JsonSchema
from octuor.grammar.schema_graph import MAX_PLACES, Place, SchemaGraph
from octuor.grammar.wording import shown

MAX_TEXT = 1 << 18  # characters of a schema as JSON
MAX_DEPTH = 96  # objects and lists inside each other; the compiler's reader takes 128 in all

_EXACT = 2**53  # the compiler computes with float64
_MAX_INTEGER = 2**63 - 1024  # the largest float64 below 2^63
_NOT_HELD = (
    *("not", "if", "then", "else", "contains", "minContains", "maxContains", "propertyNames", "uniqueItems"),
    *("dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems"),
    *("$dynamicRef", "$recursiveRef"),
)
_TYPES = ("null", "boolean", "object", "array", "number", "integer", "string")
_SIZES = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_DRAFTS = (
    *(f"http://json-schema.org/draft-0{number}/schema" for number in (4, 6, 7)),
    *(f"https://json-schema.org/draft/{name}/schema" for name in ("2019-09", "2020-12")),
)
_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = "(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
_DATE = f"(?:{_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_OWN_FORMATS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}
_FORMATS = ("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")  # the compiler's


def prepare_schema(schema: JsonSchema, field: str) -> dict[str, Any]:
    """A new schema whose answers are all valid under the given one.

    field  where the request has it, for messages

    Raises GrammarError for what is too large or too deep, is no schema, or cannot be held.
    """
    _check_size(schema, field)
    if schema is False:
        raise GrammarError(f"{field}: expected a schema that some JSON matches, found false")
    return {} if schema is True else _Preparer(schema, field).prepare()


class _Preparer:
    def __init__(self, root: Mapping[str, Any], field: str) -> None:
        self._graph = SchemaGraph(root, field)
        self._field = field
        self._within: list[Place] = []  # what is being prepared, the outermost first
        self._n_left = 2 * MAX_PLACES  # parts that may come out: oneOf writes references out, again and again

    def prepare(self) -> dict[str, Any]:
        prepared = self._schema(self._graph.root)
        assert isinstance(prepared, dict)
        definitions = {name: self._schema(place) for name, place in self._graph.definitions()}
        if definitions:
            prepared["$defs"] = definitions
        return prepared

    def _schema(self, place: Place) -> dict[str, Any] | bool:
        schema = place.schema
        if isinstance(schema, bool):
            return schema
        self._n_left -= 1
        if not self._n_left:
            raise GrammarError(
                f"{self._field}: expected a smaller schema, found one that grows where oneOf is written out"
            )
        self._within.append(place)
        out: dict[str, Any] = {}
        joined: list[dict[str, Any]] = []
        for keyword, value in schema.items():
            for name, found in self._keyword(keyword, value, place).items():
                if name in out:  # oneOf has become anyOf, and there is one
                    joined.append({name: found})
                else:
                    out[name] = found
        if joined:
            out["allOf"] = [*out.get("allOf", []), *joined]
        self._narrow(out, place)
        self._within.pop()
        return out

    def _keyword(self, keyword: str, value: Any, place: Place) -> dict[str, Any]:
        """What a keyword becomes, {} for one that holds nothing. Their order is kept: properties come in theirs."""
        where = f"{place.where}.{keyword}"
        if keyword == "$schema":
            draft = str(value).rstrip("#")
            return {"$schema": draft if draft.startswith("https") else f"{draft}#"} if draft in _DRAFTS else {}
        if keyword == "$ref":
            return {"$ref": self._graph.reference(place)}
        if keyword == "oneOf":
            return self._one_of(place)
        if keyword == "propertyNames":
            return self._property_names(place)
        if keyword in _NOT_HELD:
            if not _holds_nothing(keyword, value, place):
                raise GrammarError(f"{where}: expected a keyword that answers can be held to; say it in another way")
            return {}
        inner = place.children.get(keyword)
        if isinstance(inner, Place):
            return {keyword: self._schema(inner)}
        if isinstance(inner, list):
            return {keyword: [self._schema(child) for child in inner]}
        if isinstance(inner, dict):
            is_pattern = keyword == "patternProperties"
            return {
                keyword: {
                    to_rust(name, where) if is_pattern else name: self._schema(child) for name, child in inner.items()
                }
            }
        return _leaf(keyword, value, where, place)

    def _one_of(self, place: Place) -> dict[str, Any]:
        if self._graph.key_of(place) is not None:
            return {"anyOf": [self._schema(branch) for branch in place.listed("oneOf")]}
        # The compiler looks for what tells them apart itself, but not through references.
        inlined = [self._graph.target(branch) for branch in place.listed("oneOf")]
        return {
            "oneOf": [
                self._schema(branch if target in self._within else target)
                for branch, target in zip(place.listed("oneOf"), inlined, strict=True)
            ]
        }

    def _property_names(self, place: Place) -> dict[str, Any]:
        """Names that are listed or have a pattern become properties; the compiler does not know the keyword."""
        names = place.children["propertyNames"]
        assert isinstance(names, Place)
        assert isinstance(place.schema, Mapping)
        schema = self._graph.target(names).schema
        if schema is True or (isinstance(schema, Mapping) and _holding(schema) <= {"type"}):
            return {}
        free = place.children.get("additionalProperties")
        value = self._schema(free) if isinstance(free, Place) else True
        if isinstance(schema, Mapping) and not {"properties", "patternProperties"} & set(place.schema):
            listed = [schema["const"]] if "const" in schema else schema.get("enum")
            if _holding(schema) <= {"type", "enum", "const"} and isinstance(listed, list):
                if len(listed) * len(json.dumps(value)) > MAX_TEXT:
                    raise GrammarError(f"{names.where}: expected fewer names for a schema of this size; use a pattern")
                return {"properties": {name: value for name in listed if isinstance(name, str)}, "propertyNames": True}
            if _holding(schema) <= {"type", "pattern"}:
                pattern = to_rust(schema["pattern"], f"{names.where}.pattern")
                return {"patternProperties": {pattern: value}, "propertyNames": True}
        raise GrammarError(f"{names.where}: expected names listed by enum or a pattern, without properties beside them")

    def _narrow(self, out: dict[str, Any], place: Place) -> None:
        assert isinstance(place.schema, Mapping)
        if out.pop("propertyNames", False):
            out["additionalProperties"] = False
        if place.required:
            out["required"] = list(dict.fromkeys([*out.get("required", []), *place.required]))
        format_name = place.schema.get("format")
        if isinstance(format_name, str) and format_name in _OWN_FORMATS:
            out["allOf"] = [*out.get("allOf", []), {"pattern": _OWN_FORMATS[format_name]}]
        types = [out["type"]] if isinstance(out.get("type"), str) else out.get("type", [])
        if "integer" in types and "number" not in types and not place.is_exact:
            if not {"minimum", "exclusiveMinimum"} & set(out):
                out["minimum"] = -_MAX_INTEGER
            if not {"maximum", "exclusiveMaximum"} & set(out):
                out["maximum"] = _MAX_INTEGER
        lists_all = "properties" in out and set(out.get("required", [])) <= set(out["properties"])
        if place.is_alone and lists_all and not {"additionalProperties", "patternProperties"} & set(out):
            out["additionalProperties"] = False
        has_free_names = out.get("additionalProperties") is not False or "patternProperties" in out
        if has_free_names and out.get("minProperties", 0) > len(out.get("required", [])) + 1:
            raise GrammarError(
                f"{place.where}.minProperties: expected at most one more than there are required properties, "
                f"found {out['minProperties']}: free names may repeat; list them in properties"
            )


# ---- keywords without schemas inside -------------------------------------------------------------


def _leaf(keyword: str, value: Any, where: str, place: Place) -> dict[str, Any]:
    if keyword == "type":
        _check_type(value, where)
    elif keyword == "required":
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise GrammarError(f"{where}: expected a list of names, found {shown(value)}")
    elif keyword in ("const", "enum"):
        _check_values([value] if keyword == "const" else value, where)
    elif keyword in _SIZES:
        return {keyword: _size(value, where)}
    elif keyword in _BOUNDS:
        return {keyword: _bound(keyword, value, where, is_exact=place.is_exact)}
    elif keyword == "multipleOf":
        if not _is_number(value) or not 0 < value <= _EXACT:
            raise GrammarError(f"{where}: expected a number above 0 and at most 2^53, found {shown(value)}")
    elif keyword == "pattern":
        return {keyword: to_rust(value, where)}
    elif keyword != "format" or value not in _FORMATS:
        return {}
    return {keyword: value}


def _holds_nothing(keyword: str, value: object, place: Place) -> bool:
    """Whether a keyword that answers cannot be held to asks for nothing here."""
    assert isinstance(place.schema, Mapping)
    if keyword == "uniqueItems":
        return value is not True or place.schema.get("maxItems") in (0, 1)
    if keyword in ("then", "else"):
        return "if" not in place.schema
    if keyword in ("minContains", "maxContains"):
        return "contains" not in place.schema
    return keyword.startswith(("unevaluated", "depend")) and value in (True, {})


def _holding(schema: Mapping[str, Any]) -> set[str]:
    """The keywords of a schema that say something about a value."""
    annotations = {"title", "description", "$comment", "default", "examples", "deprecated"}
    return set(schema) - annotations


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_type(value: object, where: str) -> None:
    for name in value if isinstance(value, list) else [value]:
        if name not in _TYPES:
            raise GrammarError(f"{where}: expected {', '.join(_TYPES)} or a list of them, found {shown(name)}")


def _size(value: Any, where: str) -> int:
    if not _is_number(value) or value < 0 or value != int(value):
        raise GrammarError(f"{where}: expected a whole number from 0, found {shown(value)}")
    return int(value)


def _bound(keyword: str, value: Any, where: str, *, is_exact: bool) -> Any:
    if isinstance(value, bool) and keyword.startswith("exclusive"):  # as draft 4 has it
        return value
    if not _is_number(value):
        raise GrammarError(f"{where}: expected a number, found {shown(value)}")
    if abs(value) <= _EXACT:
        return value
    is_low = keyword.endswith("inimum")
    if is_exact or (value > _MAX_INTEGER if is_low else value < -_MAX_INTEGER):
        raise GrammarError(f"{where}: expected a bound that leaves numbers of 64 bits, found {shown(value)}")
    kept = min(max(value, -_MAX_INTEGER), _MAX_INTEGER)
    inward = float(kept)
    if inward < kept if is_low else inward > kept:
        inward = math.nextafter(inward, math.inf if is_low else -math.inf)
    return int(inward)


def _check_values(values: object, where: str) -> None:
    """Refuse values that the compiler would write otherwise than they are meant."""
    if not isinstance(values, list):
        raise GrammarError(f"{where}: expected a list of values, found {shown(values)}")
    for value in _scalars(values):
        if isinstance(value, int | float) and abs(value) > _EXACT:
            raise GrammarError(f"{where}: expected numbers up to 2^53, found {shown(value)}; make it text")
        if isinstance(value, str) and any((c < " " and c not in "\b\f\n\r\t") or c == "\x7f" for c in value):
            raise GrammarError(f"{where}: expected text without control characters, found {shown(value)}")


def _scalars(value: object) -> Iterator[object]:
    if isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _scalars(inner)
    else:
        yield value


def _check_size(schema: object, field: str) -> None:
    """Bounds on depth and length, before anything walks the schema by recursion."""
    level = [schema]
    n_values = 0
    for _ in range(MAX_DEPTH + 1):
        holders = [value for value in level if isinstance(value, Mapping | list)]
        level = [inner for value in holders for inner in (value.values() if isinstance(value, Mapping) else value)]
        n_values += len(level)
        if n_values > MAX_TEXT:
            break
    else:
        if holders:
            raise GrammarError(f"{field}: expected at most {MAX_DEPTH} levels of nesting, found more; use $ref")
    try:
        length = len(json.dumps(schema, allow_nan=False)) if n_values <= MAX_TEXT else n_values
    except ValueError as error:
        raise GrammarError(f"{field}: expected JSON, found a number that is none ({error})") from error
    if length > MAX_TEXT:
        raise GrammarError(f"{field}: expected at most {MAX_TEXT} characters of JSON, found more; shorten the schema")
