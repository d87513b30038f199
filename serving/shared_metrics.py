"""Metrics of one server whose work is done by several processes: each writes its own down, a scrape adds them up.

What is counted costs a request nothing more than in a single process. A process writes every few seconds and when it
is scraped; what one that ended had counted stays in the sums, so that they never fall.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from os import getpid
from pathlib import Path
from threading import Event, Thread

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from core.logs import logger
from events.lock import exclusive

PERIOD_SECONDS = 5.0
_ENDED = "ended"
_LOCK = "metrics"
_ADDED_GAUGES = frozenset({"vitrine_http_in_flight"})
"""Gauges that count; of the others the largest holds."""
_HIT_RATE, _LOOKUPS = "vitrine_cache_hit_rate", "vitrine_cache_requests"


class SharedMetrics:
    """This process's part in the metrics of its server."""

    def __init__(self, folder: Path, own: Callable[[], bytes], period_seconds: float = PERIOD_SECONDS) -> None:
        """`own`: this process's metrics in Prometheus' text format."""
        self._folder = folder
        self._own = own
        self._period = period_seconds
        self._is_over = Event()
        self._thread = Thread(target=self._write_on, name="metrics", daemon=True)

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def stop(self) -> None:
        """Writes once more and ends."""
        self._is_over.set()
        self._thread.join(10)

    def text(self) -> bytes:
        """The sums over all processes; what others counted in the last seconds may be missing."""
        with exclusive(self._folder, _LOCK):
            self._write()
            return _text(merged([path.read_text() for path in sorted(self._folder.glob("*.prom"))]))

    def _write_on(self) -> None:
        while not self._is_over.wait(self._period):
            self._try()
        self._try()

    def _try(self) -> None:
        try:
            self._write()
        except OSError as error:
            logger("serving").warning("metrics not shared", reason=type(error).__name__)

    def _write(self) -> None:
        _replace(self._folder / f"{getpid()}.prom", self._own())


def fold(folder: Path, process: int) -> None:
    """Adds what a process that ended had counted to that of those before, without its gauges."""
    own, ended = folder / f"{process}.prom", folder / f"{_ENDED}.prom"
    with exclusive(folder, _LOCK):
        texts = [path.read_text() for path in (ended, own) if path.exists()]
        kept = [family for family in merged(texts) if family.type != "gauge"]
        _replace(ended, _text(kept))
        own.unlink(missing_ok=True)


def merged(texts: Sequence[str]) -> list[Metric]:
    """Families of several processes as one: counters and histograms added up, gauges by what they say."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            if family.name.endswith("_created") or family.name == _HIT_RATE:
                continue
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            held = values.setdefault(family.name, {})
            is_added = family.type != "gauge" or family.name in _ADDED_GAUGES
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                before = held.get(key, 0.0)
                held[key] = before + sample.value if is_added else max(before, sample.value)
    for name, family in families.items():
        family.samples = [Sample(sample, dict(labels), value) for (sample, labels), value in values[name].items()]
    return [*families.values(), *_hit_rates(families.get(_LOOKUPS))]


def _hit_rates(lookups: Metric | None) -> Iterator[Metric]:
    """Rates of several processes do not add up; their lookups do."""
    if lookups is None:
        return
    family = Metric(_HIT_RATE, "Share of lookups that a cache answered since the start", "gauge")
    counts: dict[str, dict[str, float]] = {}
    for sample in lookups.samples:
        counts.setdefault(sample.labels["cache"], {})[sample.labels["outcome"]] = sample.value
    for cache, found in counts.items():
        asked = sum(found.values())
        family.add_sample(_HIT_RATE, {"cache": cache}, found.get("hit", 0.0) / asked if asked else 0.0)
    yield family


class _Given(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _text(families: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(families))
    return generate_latest(registry)


def _replace(path: Path, content: bytes) -> None:
    """Puts a whole file in the place of the one before. The folder does not outlive the server: nothing is synced."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(content)
    draft.replace(path)
