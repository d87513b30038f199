"""KuaiRand's logs as impressions, engagements and follows. Pure: no files, no clock.

video = post, `is_hate` = see_less, `is_forward` = share, `tab` = surface. `is_profile_enter` and the stay times are no
engagement of ours and are left out.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.schema import INSTANT
from events.importers.batch import Batch, TimeFormat
from events.importers.keys import joined, kinds_observed, occurrences
from events.importers.kuairand_codes import DATA_END, DATA_START, HISTORY_LABELS, IMPUTED_END, IMPUTED_START, LABELS
from events.importers.rows import complete


def logged_interactions(batch: Batch) -> pa.Table:
    """One row per impression of the dated logs: ids, instant, surface, labels, dwell; see `_interactions`."""
    user_id, video_id = batch.ids("user_id"), batch.ids("video_id")
    event_at = batch.instants("time_ms", TimeFormat("unix_ms"), is_required=True)
    batch.refuse(pc.greater(event_at, pa.scalar(DATA_END, INSTANT)), "time_ms: in the future of the data's end")
    batch.refuse(pc.less(event_at, pa.scalar(DATA_START, INSTANT)), "time_ms: before the data's first day")
    labels = {kind: batch.flags(column) for kind, column in LABELS.items()}
    dwell_ms, tab = batch.numbers("play_time_ms"), batch.integers("tab", is_required=True)
    is_random = pc.fill_null(batch.flags("is_rand"), False)
    kept = pa.array(batch.is_kept)
    times = pc.fill_null(event_at.cast(pa.int64()), 0).to_numpy()
    rows = _interactions(user_id, video_id, event_at, labels, pc.divide(dwell_ms, 1000.0), is_imputed=False)
    rows = rows.append_column("surface", pc.binary_join_element_wise("tab", tab.cast(pa.string()), "_"))
    policy = pc.if_else(is_random, "kuairand_random", "kuairand_standard")
    rows = rows.append_column("spec_version", policy).append_column("time_ms", pa.array(times // 1000)).filter(kept)
    repeat = occurrences(*(rows[name].to_numpy() for name in ("user_id", "post_id", "time_ms")))
    event_id = joined("kr", rows["user_id"], rows["post_id"], rows["time_ms"], repeat)
    return rows.drop_columns(["time_ms"]).append_column("event_id", event_id)


def history_interactions(batch: Batch) -> pa.Table:
    """One row per impression of the reconstructed history, instants imputed in each user's order."""
    user_id, video_id, place = batch.ids("user_id"), batch.ids("video_id"), batch.ids("pos")
    labels = {kind: batch.flags(column) for kind, column in HISTORY_LABELS.items()}
    places = [pc.fill_null(column, -1).to_numpy() for column in (user_id, place)]
    batch.refuse(occurrences(*places) > 0, "pos: occurs twice for one user")
    nothing = pa.nulls(len(batch), INSTANT)
    rows = _interactions(user_id, video_id, nothing, labels, pa.nulls(len(batch), pa.float64()), is_imputed=True)
    kept = pa.array(batch.is_kept)
    rows, place = rows.filter(kept), place.filter(kept)
    at = imputed_instants(rows["user_id"].to_numpy(), place.to_numpy())
    rows = rows.set_column(rows.column_names.index("event_at"), "event_at", pa.array(at).cast(INSTANT))
    rows = rows.append_column("surface", pa.repeat("unknown", rows.num_rows))
    rows = rows.append_column("spec_version", pa.repeat("kuairand_standard", rows.num_rows))
    return rows.append_column("event_id", joined("kr_history", rows["user_id"], place))


def imputed_instants(user_ids: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Microseconds since 1970 for each row, [N]: a user's rows lie evenly over the imputed days, in order of place.

    Each user's comb starts at an offset of its own, or all users would act at the same instants.
    """
    order = np.lexsort((places, user_ids))
    rank = np.empty(len(order), np.int64)
    rank[order] = occurrences(user_ids[order])
    _, inverse, counts = np.unique(user_ids, return_inverse=True, return_counts=True)
    phase = (user_ids * 0.6180339887498949) % 1.0
    start, end = (int(at.timestamp() * 1_000_000) for at in (IMPUTED_START, IMPUTED_END))
    instants: NDArray[np.int64] = start + ((rank + phase) / counts[inverse] * (end - start)).astype(np.int64)
    return instants


def impressions(interactions: pa.Table, creator_ids: NDArray[np.int64]) -> pa.Table:
    """The interactions as rows of `impressions`; KuaiRand tells no request, position, source or propensity."""
    is_observed = {kind: interactions[kind].is_valid().to_numpy() for kind in LABELS}
    columns = {
        name: interactions[name] for name in ("event_id", "user_id", "post_id", "surface", "spec_version", "event_at")
    }
    columns |= {
        "creator_id": pa.array(creator_ids),
        "observed_kinds": kinds_observed(is_observed, interactions.num_rows),
        "is_time_imputed": interactions["is_time_imputed"],
        "known_at": interactions["event_at"],
    }
    return complete("impressions", columns, interactions.num_rows)


def engagements(interactions: pa.Table, creator_ids: NDArray[np.int64]) -> pa.Table:
    """One row per positive label; the log tells no other instant than the impression's."""
    rows = interactions.append_column("creator_id", pa.array(creator_ids))
    return pa.concat_tables([_engagements_of(rows.filter(pc.fill_null(rows[kind], False)), kind) for kind in LABELS])


def _engagements_of(rows: pa.Table, kind: str) -> pa.Table:
    columns = {name: rows[name] for name in ("user_id", "post_id", "creator_id", "event_at", "is_time_imputed")}
    columns |= {
        "event_id": joined(rows["event_id"], kind),
        "impression_id": rows["event_id"],
        "kind": pa.repeat(kind, rows.num_rows),
        "known_at": rows["event_at"],
    }
    if kind in ("click", "long_view"):
        columns["dwell_seconds"] = rows["dwell_seconds"].cast(pa.float32())
    return complete("engagements", columns, rows.num_rows)


def follows(engagement_rows: pa.Table) -> pa.Table:
    """The follow engagements as rows of `follows`."""
    rows = engagement_rows.filter(pc.equal(engagement_rows["kind"], "follow"))
    columns = {name: rows[name] for name in ("event_id", "user_id", "creator_id", "event_at", "known_at")}
    return complete("follows", columns | {"is_active": pa.repeat(True, rows.num_rows)}, rows.num_rows)


def _interactions(
    user_id: pa.Array,
    post_id: pa.Array,
    event_at: pa.Array,
    labels: dict[str, pa.Array],
    dwell: pa.Array,
    *,
    is_imputed: bool,
) -> pa.Table:
    """Columns common to both origins, one nullable boolean per kind of LABELS."""
    columns = {"user_id": user_id, "post_id": post_id, "event_at": event_at, "dwell_seconds": dwell}
    columns |= {kind: labels.get(kind, pa.nulls(len(user_id), pa.bool_())) for kind in LABELS}
    return pa.table(columns | {"is_time_imputed": pa.repeat(is_imputed, len(user_id))})
