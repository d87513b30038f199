"""Funnel specs from YAML: strict reading, overlays, and errors that name the path and line in the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from core.errors import ConfigError
from serving.spec import FunnelSpec

DEFAULT_SPEC = Path(__file__).parent / "funnel.yaml"
OVERLAYS = Path(__file__).parent / "overlays"

Location = tuple[str | int, ...]


def load_spec(path: Path | None = None, overlays: tuple[Mapping[str, Any], ...] = ()) -> FunnelSpec:
    """The spec in `path` (the shipped one by default) with overlays merged in order. Raises ConfigError."""
    path = path or DEFAULT_SPEC
    declared, lines = _read(path)
    for overlay in overlays:
        declared = merge(declared, overlay)
    return _validated(declared, path.name, lines)


def load_overlay(name: str) -> dict[str, Any]:
    """A shipped overlay, such as `random` or `two_tower`, as plain values. Raises ConfigError."""
    path = OVERLAYS / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in OVERLAYS.glob("*.yaml")))
        raise ConfigError(f"no funnel overlay {name!r}; shipped are: {known}")
    return _read(path)[0]


def with_overlay(spec: FunnelSpec, overlay: Mapping[str, Any]) -> FunnelSpec:
    """`spec` with the overlay merged in; the original is untouched. Raises ConfigError."""
    return _validated(merge(spec.model_dump(mode="json"), overlay), "overlay", {})


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`base` overlaid: mappings merge key by key, anything else replaces; `key!` replaces a mapping whole.

    Inside `sources` a null removes the source; elsewhere null is a value (`first_stage: null`).
    """
    # A spec read back from JSON has text where YAML has a number, such as a pinned position.
    merged = {str(key): value for key, value in base.items()}
    for key, value in ((str(key), value) for key, value in overlay.items()):
        if key.endswith("!"):
            merged[key[:-1]] = value
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    if isinstance(merged.get("sources"), Mapping):
        merged["sources"] = {name: source for name, source in merged["sources"].items() if source is not None}
    return merged


def _validated(declared: Mapping[str, Any], file: str, lines: Mapping[Location, int]) -> FunnelSpec:
    try:
        return FunnelSpec.model_validate(declared)
    except ValidationError as error:
        complaints = [_complaint(dict(e), file, lines) for e in error.errors(include_url=False)]
        raise ConfigError("the funnel spec is not usable: " + "; ".join(complaints)) from error


def _complaint(error: dict[str, Any], file: str, lines: Mapping[Location, int]) -> str:
    # Pydantic puts the discriminator's value into the location; the file has no such level.
    location: Location = tuple(error["loc"])
    if len(location) > 2 and location[0] == "sources":
        location = (*location[:2], *location[3:])
    line = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None)
    where = file if line is None else f"{file}:{line}"
    if error["type"] == "extra_forbidden":
        return f"{where} {_dotted(location)}: unknown key"
    given = "" if isinstance(error.get("input"), dict) else f" (found {error.get('input')!r})"
    return f"{where} {_dotted(location)}: {error['msg']}{given}"


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location) or "(whole file)"


def _read(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the funnel spec {path}: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        declared = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(declared, dict) or node is None:
        raise ConfigError(f"{path}: expected a mapping of keys at the top, found {type(declared).__name__}")
    lines: dict[Location, int] = {}
    _walk(node, (), lines, path.name)
    return declared, lines


def _walk(node: yaml.Node, at: Location, lines: dict[Location, int], file: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, key.value)
            line = key.start_mark.line + 1
            if here in lines:
                raise ConfigError(f"{file}:{line} {_dotted(here)}: key given twice, first on line {lines[here]}")
            lines[here] = line
            _walk(value, here, lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            lines[(*at, place)] = value.start_mark.line + 1
            _walk(value, (*at, place), lines, file)
