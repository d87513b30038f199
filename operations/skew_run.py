"""One skew audit from start to report: progress, table, JSON, and the run in MLflow."""

import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from core.files import write_atomically
from core.settings import Settings
from events.served import ServedLog
from operations.skew import audit
from operations.skew_offline import FindPage
from operations.skew_outcome import Cause, FeatureSkew, SkewReport
from operations.skew_rehearsal import rehearse
from serving.feature_log_files import Kept, count_feature_log, read_feature_log

SHOWN_FEATURES = 15


@dataclass(frozen=True)
class SkewConfig:
    """What one audit looks at and accepts."""

    num_requests: int = 200
    """Rankings compared, the last kept first; as many are served where none were kept."""
    max_share: float = 0.01
    """Largest accepted share of values that differ for a known cause; an unexplained one is never accepted."""
    is_served_anew: bool = False
    """Whether requests are served for the audit although the service has kept some."""
    seed: int = 0


def run_skew(settings: Settings, config: SkewConfig, out: Console) -> dict[str, Any]:
    """The audit as one flat JSON object with `ok`; the table goes to `out`, the report to reports/skew.json.

    Raises MissingStageError where nothing was kept and the funnel lacks a part.
    """
    report = _audited(settings, config)
    path = settings.workspace.reports / "skew.json"
    is_anchored = settings.clock == "auto" and settings.workspace.manifest().anchor_at is not None
    ok = is_accepted(report, config, is_anchored)
    write_atomically(path, json.dumps({"ok": ok, "config": asdict(config), **report.to_json()}, indent=2))
    out.print(skew_table(report))
    out.print(verdict(report, config, is_anchored), markup=False, highlight=False)
    out.print(f"written: {path}", highlight=False, soft_wrap=True)
    return summary(report) | {"ok": ok, "report": str(path), "run_id": record(settings, config, report, path)}


def is_accepted(report: SkewReport, config: SkewConfig, is_anchored: bool) -> bool:
    """Whether something was compared, every difference has a cause, and they are few enough.

    On an anchored clock nothing is materialised while a server runs, so that what waits for it is not counted.
    """
    return bool(report.num_values) and not report.num_unexplained and not _is_too_much(report, config, is_anchored)


def _is_too_much(report: SkewReport, config: SkewConfig, is_anchored: bool) -> bool:
    excused = report.causes[Cause.NOT_MATERIALIZED] if is_anchored else 0
    return report.num_different - excused > config.max_share * report.num_values


def _audited(settings: Settings, config: SkewConfig) -> SkewReport:
    folder = settings.workspace.served_features
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def compared(kept: Iterable[Kept], total: int, find_page: FindPage, origin: str) -> SkewReport:
            task = progress.add_task("comparing rankings", total=total)
            return audit(settings.workspace, kept, find_page, origin, lambda n: progress.advance(task, n))

        num_kept = 0 if config.is_served_anew else min(config.num_requests, count_feature_log(folder))
        if num_kept:
            with closing(ServedLog(settings.workspace.served)) as served:
                return compared(read_feature_log(folder, num_kept), num_kept, served.page, "logged")
        task = progress.add_task("serving requests", total=config.num_requests)
        rehearsed = rehearse(settings, config.num_requests, config.seed, lambda: progress.advance(task))
        return compared(rehearsed.kept, len(rehearsed.kept), rehearsed.pages.get, "served now")


def skew_table(report: SkewReport) -> Table:
    """The worst features with their causes and an example each."""
    title = f"Skew, {report.dataset}: {report.num_requests:,} rankings {report.origin}, {report.num_posts:,} posts"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("feature", "differ", "share", "causes", "example: served → offline"):
        table.add_column(heading, justify="right" if heading in ("differ", "share") else "left", overflow="fold")
    for feature in report.worst[:SHOWN_FEATURES]:
        table.add_row(
            escape(feature.feature),
            f"{feature.num_different:,}",
            f"{feature.share:.2%}",
            ", ".join(f"{cause.value} {number:,}" for cause, number in feature.causes.most_common()),
            escape(_example(feature)),
        )
    hidden = len(report.worst) - SHOWN_FEATURES
    table.caption = f"and {hidden} more features in the report" if hidden > 0 else None
    table.caption_justify = "left"
    return table


def _example(feature: FeatureSkew) -> str:
    e = feature.example
    if e is None:
        return ""
    post = "" if e.post_id is None else f", post {e.post_id}"
    return f"{e.served} → {e.offline} (user {e.user_id}{post}, request {e.request_id})"


def verdict(report: SkewReport, config: SkewConfig, is_anchored: bool) -> str:
    """The audit in a sentence or two."""
    if not report.num_values:
        lines = ["nothing was compared"]
    else:
        causes = ", ".join(f"{c.value} {n:,}" for c, n in report.causes.most_common()) or "none differ"
        lines = [f"{report.num_values:,} values, {report.num_different:,} differ ({report.share:.4%}): {causes}"]
    lines += [f"not compared: {number:,} {reason}" for reason, number in report.not_compared.items() if number]
    if report.num_unexplained:
        lines.append("unexplained differences: the platform serves something else than it trains on")
    elif _is_too_much(report, config, is_anchored):
        lines.append(f"more than {config.max_share:.2%} differ: materialise more often or shorten the caches' max age")
    if is_anchored and report.causes[Cause.NOT_MATERIALIZED]:
        lines.append("the clock is anchored to the end of past data, so nothing is materialised while a server runs")
    return "\n".join(lines)


def summary(report: SkewReport) -> dict[str, Any]:
    """Flat numbers for scripts and tracking."""
    counts = {f"num_{cause.name.lower()}": report.causes[cause] for cause in Cause}
    return {
        "dataset": report.dataset,
        "origin": report.origin,
        "num_requests": report.num_requests,
        "num_values": report.num_values,
        "num_different": report.num_different,
        "share": report.share,
        **counts,
    }


def record(settings: Settings, config: SkewConfig, report: SkewReport, path: Path) -> str:
    """The id of the MLflow run that holds the report."""
    from training.tracking import RunRecord, Tracker

    found = summary(report)
    run = RunRecord(
        kind="skew",
        config=asdict(config),
        tags={"origin": report.origin, "data_version": settings.workspace.manifest().data_version},
        metrics={name: float(value) for name, value in found.items() if isinstance(value, (int, float))},
        artifacts={"skew": [path]},
    )
    return Tracker(settings).record(run)
