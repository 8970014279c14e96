"""Where the parts of a JSON schema stand: reached alone or joined with others, and through which references.

A schema is a graph: references may point to its root, to definitions or to any place inside it, and recursion is
common. It is walked once, before anything is changed, so that a part is narrowed only where that cannot make another
use of it impossible.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

from octuor.errors import GrammarError
from octuor.grammar.wording import shown

MAX_PLACES = 10_000  # parts of a schema
_MAX_STEPS = 32  # references to references in a row
_MAX_NAME = 40
_MAX_KEYS = 32  # properties that are looked at for one that tells branches apart

_MAPS = ("properties", "patternProperties")
_SINGLE = ("items", "additionalProperties", "additionalItems", "propertyNames")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")  # items was a list until 2019
HOLDING = frozenset(
    {
        *(*_MAPS, *_SINGLE, *_LISTS, "$ref", "type", "const", "enum", "required", "pattern", "format", "multipleOf"),
        *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "uniqueItems"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    }
)

# How a part is used: it alone says what a value is; it is joined with others; or its truth decides a oneOf, so that
# it must be neither wider nor narrower than it was sent.
Use = Literal["alone", "joined", "exact"]


@dataclass(eq=False, repr=False)
class Place:
    """One part of a schema.

    where     its path in the request
    children  parts by keyword: one, a list or by name
    uses      how it is reached
    ref       where its $ref leads
    required  properties that are required beside its own: they tell the branches of a oneOf apart
    """

    schema: Mapping[str, Any] | bool
    where: str
    children: dict[str, Children] = field(default_factory=dict)
    uses: set[Use] = field(default_factory=set)
    ref: Place | None = None
    required: dict[str, None] = field(default_factory=dict)

    @property
    def is_alone(self) -> bool:
        """Whether one list of keywords alone says what a value here must be, however it is reached."""
        return self.uses == {"alone"} and _n_parts(self.schema) == 1

    @property
    def is_exact(self) -> bool:
        """Whether it may not be narrowed."""
        return "exact" in self.uses

    @property
    def is_reference(self) -> bool:
        """Whether it is a reference and nothing else."""
        return self.ref is not None and isinstance(self.schema, Mapping) and HOLDING & set(self.schema) == {"$ref"}

    def listed(self, keyword: str) -> list[Place]:
        """The children under a keyword that holds a list."""
        found = self.children.get(keyword, [])
        assert isinstance(found, list)
        return found


Children: TypeAlias = "Place | list[Place] | dict[str, Place]"


class SchemaGraph:
    """All places of a schema that its root reaches.

    Raises GrammarError naming the path: where a schema is not one, a reference leads nowhere, outside or to itself.
    """

    def __init__(self, root: Mapping[str, Any], where: str) -> None:
        self._document = root
        self._where = where
        self._anchors = _anchors(root)
        self._places: dict[int, Place] = {}  # by the identity of their schema, which _document keeps alive
        self._names: dict[int, str] = {}  # of places that are referred to
        self._referred: list[Place] = []
        self._keys: dict[int, str | None] = {}  # what tells the branches of a place's oneOf apart
        self.root = self._place(root, where)
        self._walk()
        self._find_uses()
        for place in self._places.values():
            key = self.key_of(place)
            for branch in map(self.target, place.listed("oneOf")):
                if key and not _requires(branch, key):
                    branch.required[key] = None

    def definitions(self) -> Iterator[tuple[str, Place]]:
        """Places that references point to, but the root, under the names that `reference` uses."""
        for place in self._referred:
            if place is not self.root:
                yield self._names[id(place)], place

    def reference(self, place: Place) -> str:
        """What a place's $ref becomes."""
        target = self._follow(place)
        return "#" if target is self.root else f"#/$defs/{self._names[id(target)]}"

    def target(self, place: Place) -> Place:
        """The place itself, or the one that it only refers to."""
        return self._follow(place) if place.is_reference else place

    def key_of(self, place: Place) -> str | None:
        """What shows that only one branch of a place's oneOf can hold: the property whose constants tell the objects
        apart, "" where the types do; None where neither does, or a branch may not be narrowed to have the property.
        """
        branches = [self.target(branch) for branch in place.listed("oneOf")]
        if id(place) not in self._keys:
            self._keys[id(place)] = _key(branches)
        key = self._keys[id(place)]
        return None if key and any(branch.is_exact and not _requires(branch, key) for branch in branches) else key

    # ---- building --------------------------------------------------------------------------------

    def _place(self, schema: object, where: str) -> Place:
        if isinstance(schema, bool):
            return Place(schema, where)
        if not isinstance(schema, Mapping):
            raise GrammarError(f"{where}: expected a JSON schema, found {shown(schema)}")
        return self._places.setdefault(id(schema), Place(schema, where))

    def _walk(self) -> None:
        seen: set[int] = set()
        waiting = [self.root]
        while waiting:
            place = waiting.pop()
            if id(place) in seen or not isinstance(place.schema, Mapping):
                continue
            seen.add(id(place))
            if len(self._places) > MAX_PLACES:
                raise GrammarError(f"{self._where}: expected at most {MAX_PLACES} schemas in one, found more")
            if place is not self.root and isinstance(place.schema.get("$id"), str):
                raise GrammarError(f"{place.where}.$id: expected $id at the root alone; inline the schema")
            place.children = dict(_children(place.schema, place.where, self._place))
            waiting += [child for _, child in _flat(place.children)]
            if place.schema.get("$ref") is not None:
                place.ref = self._resolve(place.schema["$ref"], f"{place.where}.$ref")
                waiting.append(place.ref)
        self._check_circles()
        for place in [*self._places.values()]:
            target = self._follow(place) if place.ref is not None else None
            if target is not None and id(target) not in self._names:
                self._names[id(target)] = f"d{len(self._names)}"
                self._referred.append(target)

    def _resolve(self, reference: object, where: str) -> Place:
        """The place of a reference: "#", "#/path" or "#anchor", with the root's $id before it or not."""
        address, _, fragment = reference.partition("#") if isinstance(reference, str) else ("", "", "?")
        if address not in ("", str(self._document.get("$id", "")).rstrip("#")):
            raise GrammarError(f"{where}: expected a place in this schema (#/$defs/...), found {shown(reference)}")
        if fragment in self._anchors:
            return self._place(self._anchors[fragment], f"{self._where}#{fragment}")
        found: Any = self._document
        begin, *steps = [unquote(step).replace("~1", "/").replace("~0", "~") for step in fragment.split("/")]
        if steps == [""]:  # "#/" is the root to many
            steps = []
        for step in [*([begin] if begin else []), *steps]:
            if isinstance(found, Mapping) and step in found and not begin:
                found = found[step]
            elif isinstance(found, list) and step.isdecimal() and int(step) < len(found) and not begin:
                found = found[int(step)]
            else:
                raise GrammarError(f"{where}: expected a place in this schema, found {shown(reference)}")
        return self._place(found, ".".join([self._where, *map(_short, steps)]))

    def _check_circles(self) -> None:
        """A schema that is part of itself for the same value means nothing."""
        same_value = {
            place: [*place.listed("allOf"), *place.listed("anyOf"), *place.listed("oneOf"), *filter(None, [place.ref])]
            for place in self._places.values()
        }
        try:
            TopologicalSorter(same_value).prepare()
        except CycleError as error:
            where = min((place.where for place in error.args[1]), key=len)
            raise GrammarError(
                f"{where}: expected a schema, found one that refers to itself for the same value"
            ) from None

    def _follow(self, place: Place) -> Place:
        """Through references that are nothing else, to the place they mean."""
        target = place.ref
        for _ in range(_MAX_STEPS):
            assert target is not None
            if not target.is_reference:
                return target
            target = target.ref
        raise GrammarError(f"{place.where}.$ref: expected at most {_MAX_STEPS} references in a row, found more")

    def _find_uses(self) -> None:
        waiting: list[tuple[Place, Use]] = [(self.root, "alone")]
        while waiting:
            while waiting:
                place, use = waiting.pop()
                if use in place.uses:
                    continue
                place.uses.add(use)
                inner: Use = "joined" if use == "alone" and _n_parts(place.schema) > 1 else use
                if place.ref is not None:
                    waiting.append((place.ref, inner))
                waiting += [(child, inner) for _, child in _flat(place.children)]
            # which oneOf are decided by a property can change with what has become exact
            for place in self._places.values():
                if self.key_of(place) is None:
                    waiting += [(branch, "exact") for branch in place.listed("oneOf") if not branch.is_exact]


def _children(schema: Mapping[str, Any], where: str, place: Any) -> Iterator[tuple[str, Children]]:
    for keyword, value in schema.items():
        path = f"{where}.{keyword}"
        if keyword in _MAPS:
            if not isinstance(value, Mapping):
                raise GrammarError(f"{path}: expected an object of schemas, found {shown(value)}")
            yield keyword, {str(name): place(inner, f"{path}.{_short(name)}") for name, inner in value.items()}
        elif keyword in _LISTS and (isinstance(value, list) or keyword not in _SINGLE):
            if not isinstance(value, list) or (not value and keyword.endswith("Of")):
                raise GrammarError(f"{path}: expected a list of schemas, found {shown(value)}")
            yield keyword, [place(inner, f"{path}[{index}]") for index, inner in enumerate(value)]
        elif keyword in _SINGLE:
            yield keyword, place(value, path)


def _short(name: str) -> str:
    """A name as paths have it: each of thousands of places has the names above it in its own."""
    return name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..."


def _flat(children: Mapping[str, Children]) -> Iterator[tuple[str, Place]]:
    for keyword, inner in children.items():
        if isinstance(inner, Place):
            yield keyword, inner
        else:
            for child in inner.values() if isinstance(inner, dict) else inner:
                yield keyword, child


def _n_parts(schema: Mapping[str, Any] | bool) -> int:
    """How many parts of a schema say which properties and items a value has: more than one are joined."""
    if isinstance(schema, bool):
        return 1
    n_parts = sum(len(schema[key]) if key == "allOf" else 1 for key in ("allOf", "anyOf", "oneOf") if key in schema)
    n_parts += sum(key in schema for key in ("$ref", "enum", "const", "patternProperties", "propertyNames"))
    own = {*_MAPS, *_SINGLE, "prefixItems", "required", "minItems", "maxItems", "minProperties", "maxProperties"}
    return n_parts + bool(own & set(schema))


def _key(branches: list[Place]) -> str | None:
    """As `SchemaGraph.key_of`, of places that are no references."""
    objects: list[Mapping[str, Any]] = []
    kinds: list[str] = []
    for branch in branches:
        schema = branch.schema if isinstance(branch.schema, Mapping) else {}
        types = schema.get("type")
        if types == "object":
            objects.append(schema)
        elif isinstance(types, str | list) and types:
            listed = [types] if isinstance(types, str) else types
            kinds += {"number" if kind == "integer" else str(kind) for kind in listed}
        else:
            return None
    if len(set(kinds)) < len(kinds) or (objects and "object" in kinds):
        return None
    if len(objects) < 2:
        return ""
    names = objects[0].get("properties")
    for key in [*names][:_MAX_KEYS] if isinstance(names, Mapping) else ():
        constants = [_constants(schema, key) for schema in objects]
        if all(constants) and len(set().union(*constants)) == sum(map(len, constants)):
            return str(key)
    return None


def _requires(place: Place, key: str) -> bool:
    """Whether an object must have the property; True for what is no object."""
    is_object = isinstance(place.schema, Mapping) and place.schema.get("type") == "object"
    required = place.schema.get("required") if isinstance(place.schema, Mapping) else None
    return not is_object or (isinstance(required, list) and key in required)


def _constants(schema: Mapping[str, Any], key: str) -> set[str]:
    """The texts that a property may be; none where it may be something else."""
    properties = schema.get("properties")
    inner = properties.get(key) if isinstance(properties, Mapping) else None
    if not isinstance(inner, Mapping):
        return set()
    values = [inner["const"]] if "const" in inner else inner.get("enum")
    is_text = isinstance(values, list) and all(isinstance(value, str) for value in values)
    return set(values) if is_text else set()  # type: ignore[arg-type]


def _anchors(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Everything with an $anchor."""
    found: dict[str, Mapping[str, Any]] = {}
    waiting: list[object] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            anchor = value.get("$anchor")
            if isinstance(anchor, str) and anchor:
                found.setdefault(anchor, value)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return found
