"""The SQL templates and everything they refer to."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2

from core.files import content_hash
from core.schema import CONTENT_DIM, HEADS, MEDIA_TYPES
from feature_repo import catalog
from feature_repo.building.hours import Span, published

SQL_FOLDER = Path(__file__).parents[1] / "sql"

Render = Callable[..., str]
"""SQL of a template by name, given what is its own."""


@dataclass(frozen=True)
class Templates:
    """Renders the templates for a log that ends at `data_end` microseconds since 1970."""

    data_end: int
    has_observed_kinds: bool
    environment: jinja2.Environment

    @staticmethod
    def of(data_end: int, has_observed_kinds: bool) -> "Templates":
        return Templates(data_end, has_observed_kinds, _environment())

    def for_span(self, span: Span, *, is_alone: bool = False) -> Render:
        """Renders for a span of hours; `is_alone` where that is one hour and all of the build."""
        parameters = {
            **_constants(),
            "data_end": _timestamp(self.data_end),
            "tallies": tallies(self.has_observed_kinds),
            "has_observed_kinds": self.has_observed_kinds,
            "first_hour": span.first,
            "last_hour": span.last,
            "checkpoint_hour": span.checkpoint,
            "checkpoint_published": _timestamp(published(span.checkpoint)),
            "known_after": _timestamp(span.known_after),
            "known_until": _timestamp(self.data_end if span.until is None else span.until),
            "is_whole": span.is_whole,
            "is_alone": is_alone,
            "is_last": span.until is None,
            "leaving": span.leaving(),
        }

        def render(name: str, **own: object) -> str:
            return self.environment.get_template(f"{name}.sql").render(**parameters, **own)

        return render


def tallies(has_observed_kinds: bool) -> list[str]:
    """What is counted of a key: impressions, those that record an engagement where not all do, engagements."""
    return [
        "impressions",
        *([f"seen_{k}" for k in HEADS] if has_observed_kinds else []),
        *(f"did_{k}" for k in HEADS),
    ]


def recipe(data_version: str) -> str:
    """Changes with the data set and with everything that decides a feature's value, not with appended events."""
    sql = [p.read_text() for p in sorted(SQL_FOLDER.glob("*.sql"))]
    # Compaction of posted events appends "+place" to the version of the data set; they are events like others.
    return content_hash([data_version.partition("+")[0], repr(catalog.VIEWS), repr(_constants()), *sql])


def quoted(path: Path) -> str:
    """The path inside an SQL string literal."""
    return str(path).replace("'", "''")


@functools.cache
def _environment() -> jinja2.Environment:
    """Compiling the templates takes longer than some hours do, so a process does it once."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(SQL_FOLDER),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
    )
    functions = environment.get_template("functions.sql").make_module()
    for name in ("end_hour", "visible_hour", "hour_start", "fixed", "unfixed"):
        environment.globals[name] = getattr(functions, name)
    return environment


def _constants() -> dict[str, object]:
    return {
        "heads": list(HEADS),
        "kinds": list(HEADS),
        "windows": [{"name": name, "hours": hours} for name, hours in catalog.WINDOWS.items()],
        "prior_rates": catalog.PRIOR_RATES,
        "prior_impressions": catalog.PRIOR_IMPRESSIONS,
        "kind_weights": catalog.KIND_WEIGHTS,
        "media_types": list(MEDIA_TYPES),
        "content_dim": CONTENT_DIM,
        "dims": list(range(1, CONTENT_DIM + 1)),
        "history_length": catalog.HISTORY_LENGTH,
        "affinity_length": catalog.AFFINITY_LENGTH,
        "affinity_events": catalog.AFFINITY_EVENTS,
        "half_life_hours": catalog.AFFINITY_HALF_LIFE_HOURS,
        "followed_length": catalog.FOLLOWED_LENGTH,
        "lag_seconds": int(catalog.PUBLISH_LAG.total_seconds()),
    }


def _timestamp(at: int) -> str:
    return f"make_timestamptz({at}::BIGINT)"
