"""What can be tuned in a funnel spec, path by path, and the JSON Schema that editors check a spec with."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.spec import FunnelSpec

SCHEMA_FILE = Path(__file__).parent / "funnel.schema.json"
"""Where the comment at the top of the shipped specs leads an editor."""

Value = bool | int | float | str | None
_NAMES = frozenset({"surface", "candidate_kind"})
"""Say what a funnel is, not how it behaves."""


@dataclass(frozen=True)
class Tunable:
    """A value of the spec that an experiment may set. `unit` is empty for what is no number."""

    path: str
    value: Value
    unit: str
    lowest: float | None = None
    highest: float | None = None
    is_lowest_open: bool = False
    """True where `lowest` itself is not allowed."""
    choices: tuple[Value, ...] = ()
    meaning: str = ""

    @property
    def range(self) -> str:
        """The range in words, empty where every value goes."""
        if self.choices:
            return " or ".join(json.dumps(choice).strip('"') for choice in self.choices)
        if self.lowest is None or self.highest is None:
            return ""
        return f"{'over ' if self.is_lowest_open else ''}{self.lowest:,.10g} to {self.highest:,.10g}"


def tunables(spec: FunnelSpec) -> tuple[Tunable, ...]:
    """Every number, choice and switch of the spec, in its order. Lists and stages that are off have none."""
    schema = FunnelSpec.model_json_schema()
    return tuple(_of(schema, schema, spec.model_dump(mode="json"), ()))


def schema_text() -> str:
    """JSON Schema of a spec file, with the unit of every number as `unit`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **FunnelSpec.model_json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _of(root: Mapping[str, Any], node: Mapping[str, Any], value: Any, path: tuple[str, ...]) -> Iterator[Tunable]:
    meaning = node.get("description", "")
    is_optional = any(option.get("type") == "null" for option in node.get("anyOf", ()))
    node = _resolved(root, node, value)
    if isinstance(value, dict):
        for key, inner in value.items():
            if path or key not in _NAMES:
                yield from _of(root, {"description": meaning, **_child(node, key)}, inner, (*path, key))
        return
    choices = tuple(node.get("enum", (False, True) if node.get("type") == "boolean" else ()))
    is_number = node.get("type") in ("integer", "number")
    if "const" in node or not (choices or is_number):
        return
    low = node.get("minimum", node.get("exclusiveMinimum"))
    yield Tunable(
        ".".join(path), value, node.get("unit", ""), low, node.get("maximum"), "exclusiveMinimum" in node, choices,
        f"{meaning} May be null." if is_optional else meaning,
    )  # fmt: skip


def _resolved(root: Mapping[str, Any], node: Mapping[str, Any], value: Any) -> Mapping[str, Any]:
    """The part of the schema that describes `value`: references followed, alternatives decided."""
    if "$ref" in node:
        return _resolved(root, root["$defs"][node["$ref"].rpartition("/")[2]], value)
    if "anyOf" in node:
        return _resolved(root, next(o for o in node["anyOf"] if o.get("type") != "null"), value)
    if "oneOf" in node:
        tag = node["discriminator"]
        return _resolved(root, {"$ref": tag["mapping"][value[tag["propertyName"]]]}, value)
    return node


def _child(node: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if key in node.get("properties", {}):
        return dict(node["properties"][key])
    patterns = node.get("patternProperties", {})
    return dict(next(iter(patterns.values())) if patterns else node["additionalProperties"])
