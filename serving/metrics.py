"""Prometheus metrics of one process; labels are few and never ids."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from serving.funnel.request import StageReport
from serving.funnel.row_cache import CacheCounts

_LATENCIES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SIZES = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Metrics:
    """Everything a process counts; also the funnel's observer."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._http = Counter("vitrine_http_requests", "HTTP requests", ("route", "method", "status"), registry=r)
        self._http_seconds = Histogram(
            "vitrine_http_seconds", "Time to answer, seconds", ("route",), buckets=_LATENCIES, registry=r
        )
        self._in_flight = Gauge("vitrine_http_in_flight", "HTTP requests that are being answered", registry=r)
        self._refused = Counter(
            "vitrine_refused", "HTTP requests refused before they reached a route, by what for", ("reason",), registry=r
        )
        self._part_missing = Gauge(
            "vitrine_part_missing", "1 while a part is not loaded or an older one stands in", ("part",), registry=r
        )
        self._stage_seconds = Histogram(
            "vitrine_stage_seconds", "Time in a funnel stage, seconds", ("stage",), buckets=_LATENCIES, registry=r
        )
        self._stage_size = Histogram(
            "vitrine_stage_candidates", "Candidates that left a funnel stage", ("stage",), buckets=_SIZES, registry=r
        )
        self._stage_empty = Counter("vitrine_stage_empty", "Times a stage left nothing", ("stage",), registry=r)
        self._removed = Counter(
            "vitrine_removed_candidates", "Candidates removed by a stage", ("stage", "reason"), registry=r
        )
        self._degraded = Counter("vitrine_degraded", "Slates that did without a part", ("part",), registry=r)
        self._out_of_bounds = Counter(
            "vitrine_feature_values_out_of_bounds", "Online values read as null", ("feature",), registry=r
        )
        self.caches: dict[str, CacheCounts] = {"slates": CacheCounts()}
        """Lookups by cache."""
        r.register(_CacheLookups(self.caches))
        self._admission = Counter(
            "vitrine_admission", "Feed requests that had their turn, were answered from the reserve, or got a 503",
            ("outcome",), registry=r,
        )  # fmt: skip
        self._prefetch = Counter(
            "vitrine_prefetch", "Next pages ranked ahead, or left for want of room", ("outcome",), registry=r
        )
        self._explanations_dropped = Counter(
            "vitrine_explanations_dropped", "Pages that nobody can explain", registry=r
        )
        self._feature_rows = Counter(
            "vitrine_feature_log_rows",
            "Ranked posts whose features were kept, dropped for want of room, or lost to an error",
            ("outcome",),
            registry=r,
        )
        self._events = Counter("vitrine_events", "Posted events", ("outcome",), registry=r)
        self._cache_hit_rate = Gauge(
            "vitrine_cache_hit_rate", "Share of lookups that a cache answered since the start", ("cache",), registry=r
        )

    def stage(self, report: StageReport) -> None:
        """Counts what one stage did."""
        self._stage_seconds.labels(report.name).observe(report.seconds)
        self._stage_size.labels(report.name).observe(report.num_out)
        if report.is_empty:
            self._stage_empty.labels(report.name).inc()
        for reason, count in report.removed.items():
            self._removed.labels(report.name, reason).inc(count)

    def degraded(self, part: str) -> None:
        """Counts a slate that did without `part`."""
        self._degraded.labels(part).inc()

    def out_of_bounds(self, feature: str, values: int) -> None:
        """Counts values of a feature that lay outside its bounds and were read as null."""
        self._out_of_bounds.labels(feature).inc(values)

    def http(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts one answered HTTP request."""
        self._http.labels(route, method, str(status)).inc()
        self._http_seconds.labels(route).observe(seconds)

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Counts a request while the block runs."""
        self._in_flight.inc()
        try:
            yield
        finally:
            self._in_flight.dec()

    def refused(self, reason: str) -> None:
        """Counts a request that did not reach a route."""
        self._refused.labels(reason).inc()

    def part_missing(self, part: str, is_missing: bool) -> None:
        """Notes whether the process does without a part, or with an older one than it should have."""
        self._part_missing.labels(part).set(is_missing)

    def cache(self, name: str, is_hit: bool) -> None:
        """Counts one lookup."""
        counts = self.caches[name]
        counts.num_asked += 1
        counts.num_hits += is_hit

    def watch_cache(self, name: str, counts: CacheCounts) -> None:
        """Exposes the lookups of a cache that counts for itself, and its hit rate."""
        self.caches[name] = counts
        self._cache_hit_rate.labels(name).set_function(lambda: counts.hit_rate)

    def admission(self, outcome: str) -> None:
        """Counts a feed request: admitted, shed (answered from the reserve) or refused."""
        self._admission.labels(outcome).inc()

    def prefetched(self, is_taken: bool) -> None:
        """Counts a next page that will be ranked ahead, or had no room."""
        self._prefetch.labels("taken" if is_taken else "no_room").inc()

    def explanation_dropped(self) -> None:
        """Counts a page whose explanation was not kept."""
        self._explanations_dropped.inc()

    def events(self, accepted: int, duplicates: int, refused: int) -> None:
        """Counts one batch of events."""
        for outcome, count in (("accepted", accepted), ("duplicate", duplicates), ("refused", refused)):
            self._events.labels(outcome).inc(count)

    def feature_rows(self, outcome: str, rows: int) -> None:
        """Counts ranked posts by what became of their features: kept, dropped or failed."""
        self._feature_rows.labels(outcome).inc(rows)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _CacheLookups(Collector):
    """Lookups of every cache, read where they are counted."""

    def __init__(self, caches: Mapping[str, CacheCounts]) -> None:
        self._caches = caches

    def describe(self) -> Iterator[CounterMetricFamily]:
        """The family without its samples."""
        yield self._family()

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Counters by cache and outcome."""
        family = self._family()
        for name, counts in tuple(self._caches.items()):
            family.add_metric((name, "hit"), counts.num_hits)
            family.add_metric((name, "miss"), counts.num_asked - counts.num_hits)
        yield family

    @staticmethod
    def _family() -> CounterMetricFamily:
        return CounterMetricFamily("vitrine_cache_requests", "Lookups in a cache", labels=("cache", "outcome"))
