"""The mapping file of own data: which file and column holds what, typed, with the path of every mistake."""

from pathlib import Path
from typing import Annotated, Any
from zoneinfo import available_timezones

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from core.errors import ConfigError
from core.schema import ENGAGEMENT_KINDS
from events.importers.batch import TimeFormat

USER_COLUMNS = ("user_id", "registered_at", "country", "language")
CREATOR_COLUMNS = ("creator_id", "created_at", "country", "language")
POST_COLUMNS = (
    "post_id",
    "creator_id",
    "created_at",
    "media_type",
    "topic_id",
    "duration_seconds",
    "language",
    "country",
    "integrity_score",
    "is_recommendable",
    "content_embedding",
)
FOLLOW_COLUMNS = ("user_id", "creator_id", "event_at", "is_active", "event_id")
IMPRESSION_COLUMNS = (
    "user_id",
    "post_id",
    "event_at",
    "event_id",
    "surface",
    "position",
    "served_at",
    "propensity",
    "spec_version",
    "dwell_seconds",
    "request_id",
    "session_id",
    "device",
    "country",
    "language",
)
ENGAGEMENT_COLUMNS = ("user_id", "post_id", "event_at", "kind", "event_id", "impression_id", "dwell_seconds")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeSpec(_Strict):
    """How instants are written: iso, unix_s, unix_ms, unix_us or a strptime pattern; the zone where they tell none."""

    format: Annotated[str, Field(pattern=r"^(iso|unix_s|unix_ms|unix_us|.*%.*)$")] = "iso"
    zone: str = "UTC"

    @field_validator("zone")
    @classmethod
    def _zone_exists(cls, zone: str) -> str:
        if zone not in available_timezones():
            raise ValueError(f"no time zone {zone!r}; expected one like Europe/Paris")
        return zone

    def to_format(self) -> TimeFormat:
        return TimeFormat(self.format, self.zone)


class TableSpec(_Strict):
    """One table: its files (a name or pattern below the data folder, or several), and where each column comes from.

    `columns` names their column for ours, `constants` a value for every row, `values` our value for each of theirs
    (null drops the row on purpose), `codes` columns of theirs that become categorical attributes.
    """

    file: str | list[str]
    columns: dict[str, str]
    constants: dict[str, str | int | float | bool] = {}
    values: dict[str, dict[str, str | int | float | bool | None]] = {}
    codes: list[str] = []
    labels: dict[str, str] = {}
    time: TimeSpec | None = None

    @property
    def files(self) -> list[str]:
        return [self.file] if isinstance(self.file, str) else self.file


class Mapping(_Strict):
    """The whole mapping. Impressions are needed: what was shown and left alone teaches as much as what was liked."""

    impressions: TableSpec
    engagements: TableSpec | None = None
    posts: TableSpec | None = None
    users: TableSpec | None = None
    creators: TableSpec | None = None
    follows: TableSpec | None = None
    time: TimeSpec = TimeSpec()
    is_live: bool = False

    @model_validator(mode="after")
    def _names_exist(self) -> "Mapping":
        for table, (known, needed) in _KNOWN.items():
            spec: TableSpec | None = getattr(self, table)
            if spec is not None:
                _check_names(table, spec, known, needed)
        return self

    @staticmethod
    def load(path: Path) -> "Mapping":
        """The mapping in the YAML file. Raises ConfigError naming file and path of what is wrong."""
        if not path.exists():
            raise ConfigError(f"{path}: no such mapping file")
        try:
            content: Any = yaml.safe_load(path.read_text())
            return Mapping.model_validate(content)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is not YAML ({error})") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "file"
            raise ConfigError(f"{path}: {place}: {first['msg']}; see docs/guides/own-data.md") from error


_KNOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "users": (USER_COLUMNS, ("user_id",)),
    "creators": (CREATOR_COLUMNS, ("creator_id",)),
    "posts": (POST_COLUMNS, ("post_id",)),
    "follows": (FOLLOW_COLUMNS, ("user_id", "creator_id")),
    "impressions": (IMPRESSION_COLUMNS, ("user_id", "post_id", "event_at")),
    "engagements": (ENGAGEMENT_COLUMNS, ("user_id", "post_id", "event_at", "kind")),
}
"""Our columns of each table, and those that must come from a column or a constant."""


def _check_names(table: str, spec: TableSpec, known: tuple[str, ...], needed: tuple[str, ...]) -> None:
    for part in ("columns", "constants", "values"):
        for name in getattr(spec, part):
            if name not in known:
                raise ValueError(f"{table}.{part}.{name}: no such column of ours; there are {', '.join(known)}")
    for name in needed:
        if name not in spec.columns and name not in spec.constants:
            raise ValueError(f"{table}.columns.{name}: is missing; {table} cannot be read without it")
    if spec.codes and table not in ("users", "posts"):
        raise ValueError(f"{table}.codes: only users and posts have categorical attributes")
    if spec.labels and table != "impressions":
        raise ValueError(f"{table}.labels: only impressions carry engagements as columns; elsewhere map `kind`")
    for kind in spec.labels:
        if kind not in ENGAGEMENT_KINDS:
            raise ValueError(f"{table}.labels.{kind}: no such engagement; there are {', '.join(ENGAGEMENT_KINDS)}")
    for value in spec.values.get("kind", {}).values():
        if value is not None and value not in ENGAGEMENT_KINDS:
            raise ValueError(f"{table}.values.kind: no engagement {value!r}; there are {', '.join(ENGAGEMENT_KINDS)}")
