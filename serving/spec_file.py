"""Funnel specs from YAML: strict reading, overlays, and errors that name the path and line in the file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from core.errors import ConfigError
from serving.spec import FunnelSpec

DEFAULT_SPEC = Path(__file__).parent / "funnel.yaml"
OVERLAYS = Path(__file__).parent / "overlays"

Location = tuple[str | int, ...]

_KEY_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "merge"))


@dataclass(frozen=True)
class Overlay:
    """A part of a spec, to be merged onto one. `origins` says where each path stands, as `file:line`."""

    name: str
    values: Mapping[str, Any]
    origins: Mapping[Location, str] = field(default_factory=dict)


def spec_files(path: Path | None = None) -> tuple[Path, ...]:
    """The spec files at `path`: the file itself, or those of a folder by name. Raises ConfigError for none."""
    path = path or DEFAULT_SPEC
    if not path.is_dir():
        return (path,)
    found = tuple(sorted(path.glob("*.yaml")))
    if not found:
        raise ConfigError(f"no funnel spec (*.yaml) in the folder {path}; put one per surface there")
    return found


def load_specs(path: Path | None = None) -> dict[str, FunnelSpec]:
    """The specs of a file or a folder by surface, in the order of the files' names. Raises ConfigError."""
    specs: dict[str, FunnelSpec] = {}
    files: dict[str, str] = {}
    for file in spec_files(path):
        spec = load_spec(file)
        if spec.surface in specs:
            raise ConfigError(f"{file.name} surface: {spec.surface!r} is declared in {files[spec.surface]} too")
        specs[spec.surface], files[spec.surface] = spec, file.name
    return specs


def load_spec(path: Path | None = None, overlays: Sequence[Overlay] = ()) -> FunnelSpec:
    """The spec in `path` (the shipped one by default; of a folder its first) with `overlays` merged in.

    Their order does not matter: two that set one path differently are an error. Raises ConfigError.
    """
    file = spec_files(path)[0]
    declared, origins = _read(file)
    _refuse_contradictions(overlays)
    for overlay in overlays:
        declared = merge(declared, overlay.values)
        origins = {**origins, **overlay.origins}
    return _validated(declared, file.name, origins)


def load_overlay(name: str) -> dict[str, Any]:
    """A shipped overlay, such as `random` or `two_tower`, as plain values. Raises ConfigError."""
    return dict(read_overlay(name).values)


def read_overlay(name: str) -> Overlay:
    """A shipped overlay by its name, or one in a YAML file by its path. Raises ConfigError."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else OVERLAYS / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in OVERLAYS.glob("*.yaml")))
        raise ConfigError(f"no funnel overlay {name!r}; give a YAML file or one of the shipped: {known}")
    values, origins = _read(path)
    return Overlay(path.stem, values, {tuple(_bare(key) for key in at): where for at, where in origins.items()})


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


def _refuse_contradictions(overlays: Sequence[Overlay]) -> None:
    """Raises ConfigError where two overlays would give another spec in the other order."""
    for one, other in combinations(overlays, 2):
        for (here, mine), (there, theirs) in ((a, b) for a in _set_paths(one.values) for b in _set_paths(other.values)):
            shorter = min(len(here), len(there))
            if here[:shorter] == there[:shorter] and (len(here) != len(there) or mine != theirs):
                raise ConfigError(
                    f"overlays {one.name!r} and {other.name!r} both set {_dotted(here[:shorter])}, to different "
                    "values; take the path out of one of them"
                )


def _set_paths(values: Mapping[str, Any], at: Location = ()) -> Iterator[tuple[Location, Any]]:
    """Every path that an overlay replaces, and by what."""
    for key, value in values.items():
        if isinstance(value, Mapping) and not key.endswith("!"):
            yield from _set_paths(value, (*at, key))
        else:
            yield (*at, _bare(key)), value


def _bare(key: str | int) -> str | int:
    return key.removesuffix("!") if isinstance(key, str) else key


def _validated(declared: Mapping[str, Any], file: str, origins: Mapping[Location, str]) -> FunnelSpec:
    try:
        return FunnelSpec.model_validate(declared)
    except ValidationError as error:
        complaints = [_complaint(dict(e), file, origins) for e in error.errors(include_url=False)]
        raise ConfigError("the funnel spec is not usable: " + "; ".join(complaints)) from error


def _complaint(error: dict[str, Any], file: str, origins: Mapping[Location, str]) -> str:
    # Pydantic puts the discriminator's value into the location; the file has no such level.
    location: Location = tuple(error["loc"])
    if len(location) > 2 and location[0] == "sources":
        location = (*location[:2], *location[3:])
    where = next((origins[location[:n]] for n in range(len(location), 0, -1) if location[:n] in origins), file)
    if error["type"] == "extra_forbidden":
        return f"{where} {_dotted(location)}: unknown key"
    given = "" if isinstance(error.get("input"), dict) else f" (found {error.get('input')!r})"
    return f"{where} {_dotted(location)}: {error['msg']}{given}"


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location) or "(whole file)"


def _read(path: Path) -> tuple[dict[str, Any], dict[Location, str]]:
    """What the file declares, and `file:line` of every path."""
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
    origins: dict[Location, str] = {}
    _walk(node, (), origins, path.name)
    return _text_keys(declared), origins


def _text_keys(declared: Any) -> Any:
    """The same with numbers as keys written as text, which they are in a spec that was read back from JSON."""
    if isinstance(declared, dict):
        return {str(key): _text_keys(value) for key, value in declared.items()}
    return declared


def _walk(node: yaml.Node, at: Location, origins: dict[Location, str], file: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here, where = (*at, key.value), f"{file}:{key.start_mark.line + 1}"
            if key.tag not in _KEY_TAGS:
                raise ConfigError(f"{where} {_dotted(at)}: the key {key.value!r} is no text; put it in quotes")
            if here in origins:
                raise ConfigError(f"{where} {_dotted(here)}: key given twice, first at {origins[here]}")
            origins[here] = where
            _walk(value, here, origins, file)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            origins[(*at, place)] = f"{file}:{value.start_mark.line + 1}"
            _walk(value, (*at, place), origins, file)
