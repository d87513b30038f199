"""Skew: what the second stage was served, held against what training would have joined, value by value.

    served_features/ ──▶ batches of rankings ──▶ training's join as of the serve time ──▶ differences ──▶ causes

Values of a user or a request count once per ranking, of a post or creator once per ranked post. Cross features are
computed from stored ones, so their differences have the causes of what they were computed from.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from core.workspace import Workspace
from feature_repo.materialized import materialized_spans
from models.bundle import read_manifest
from operations.skew_causes import Attribution
from operations.skew_comparison import Comparison, Tally
from operations.skew_offline import FindPage
from operations.skew_outcome import SkewReport
from serving.feature_log_files import Kept
from serving.funnel.feature_record import FeatureRecord
from serving.funnel.input_bounds import InputBounds

BATCH_POSTS = 6_000
"""Ranked posts joined at a time; a row is about 10 kB with its user's lists."""

OTHER_DATA = "requests served from another data version"

Advance = Callable[[int], None]
"""Told how many rankings were compared."""


def audit(
    workspace: Workspace,
    kept: Iterable[Kept],
    find_page: FindPage,
    origin: str = "logged",
    advance: Advance = lambda _: None,
) -> SkewReport:
    """Every served value against its offline recomputation as of the serve time of the ranking.

    Raises MissingStageError without features and FeatureStoreError when Feast cannot join.
    """
    version = workspace.manifest().data_version
    tally = Tally()
    ends = materialized_spans(workspace)
    for batch in _batches(kept, version, tally):
        bounds = InputBounds(bundle_bounds(workspace, [r for r, _ in batch]), lambda feature, values: None)
        Comparison(workspace, batch, Attribution(workspace, ends, bounds), find_page, tally).run()
        advance(len(batch))
    return tally.report(workspace.root.name, origin)


def _batches(kept: Iterable[Kept], data_version: str, tally: Tally) -> Iterator[list[Kept]]:
    """Rankings of this data version with equal columns, about BATCH_POSTS posts at a time."""
    waiting: list[Kept] = []
    for record, until in kept:
        if record.data_version != data_version:
            tally.not_compared[OTHER_DATA] += 1
            continue
        is_full = sum(len(r.post_ids) for r, _ in waiting) + len(record.post_ids) > BATCH_POSTS
        if waiting and (is_full or _columns(record) != _columns(waiting[0][0])):
            yield waiting
            waiting = []
        waiting.append((record, until))
    if waiting:
        yield waiting


def _columns(record: FeatureRecord) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(record.user), tuple(record.posts)


def bundle_bounds(workspace: Workspace, records: Sequence[FeatureRecord]) -> dict[str, Any]:
    """Input bounds of the bundles that served; a bundle that is gone has none."""
    bounds: dict[str, Any] = {}
    for versions in {record.model_versions for record in records}:
        for kind, bundle_id in json.loads(versions).items():
            folder = workspace.bundles / kind / bundle_id
            if folder.is_dir():
                bounds |= read_manifest(folder).get("bounds", {})
    return bounds
