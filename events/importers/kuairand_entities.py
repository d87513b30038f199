"""KuaiRand's features as users, posts and creators. Pure: no files, no clock.

author = creator. The upload date is a day in China; its first instant is the post's creation. Left out: the video
statistics file, which averages over the whole month and so tells test days, and `visible_status`, which tells what
became of a video later.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.ids import internal_id
from core.schema import INSTANT
from events.importers import kuairand_codes
from events.importers.batch import Batch, TimeFormat
from events.importers.keys import occurrences, positions_in
from events.importers.rows import complete, int_lists, not_before


def users(batch: Batch) -> pa.Table:
    """The user features as rows of `users`, true since registration and known from the data's first day.

    Registration is counted back from that day: the upstream text does not say from which day it counts.
    """
    user_id = batch.ids("user_id")
    _refuse_repeats(batch, "user_id", user_id)
    codes = [_text_codes(batch, column, known) for column, known in kuairand_codes.USER_TEXT_CODES.items()]
    codes += [_number_codes(batch, column) for column in kuairand_codes.USER_NUMBER_CODES]
    days = pc.fill_null(batch.integers("register_days"), 0).to_numpy()
    batch.refuse((days < 0) | (days > 10_000), "register_days: not within 0 and 10000")
    at = int(kuairand_codes.DATA_START.timestamp() * 1_000_000) - np.clip(days, 0, 10_000) * 86_400_000_000
    kept = batch.is_kept
    return _user_rows(user_id.filter(pa.array(kept)).to_numpy(), np.stack(codes, axis=1)[kept], at[kept])


def unknown_users(user_ids: NDArray[np.int64]) -> pa.Table:
    """Rows of `users` for users of whom only their actions are known."""
    codes = np.full((len(user_ids), kuairand_codes.NUM_PROFILE_CODES), -1, np.int32)
    return _user_rows(user_ids, codes, np.full(len(user_ids), int(kuairand_codes.DATA_START.timestamp() * 1_000_000)))


def posts(batch: Batch) -> pa.Table:
    """The basic video features as rows of `posts`."""
    post_id, creator_id = batch.ids("video_id"), batch.ids("author_id")
    _refuse_repeats(batch, "video_id", post_id)
    created_at = batch.instants("upload_dt", TimeFormat(zone="Asia/Shanghai"), is_required=True)
    batch.refuse(
        pc.greater(created_at, pa.scalar(kuairand_codes.DATA_END, INSTANT)),
        "upload_dt: in the future of the data's end",
    )
    duration = batch.numbers("video_duration")
    music = batch.integers("music_type")
    tag = pc.replace_substring_regex(batch.texts("tag"), r",.*$", "")
    is_tag = pc.fill_null(pc.match_substring_regex(tag, r"^[0-9]{1,9}$"), False)
    batch.refuse(pc.and_(pc.invert(is_tag), pc.is_valid(tag)), "tag: not whole numbers with commas between")
    codes = [
        _text_codes(batch, "video_type", kuairand_codes.VIDEO_TYPES),
        _text_codes(batch, "upload_type", kuairand_codes.UPLOAD_TYPES),
        np.clip(pc.fill_null(music, -1).to_numpy(), -1, 2**31 - 1).astype(np.int32),
        _side_codes(batch, "server_width"),
        _side_codes(batch, "server_height"),
    ]
    kept = pa.array(batch.is_kept)
    columns = {
        "post_id": post_id,
        "creator_id": creator_id,
        "created_at": created_at,
        "topic_id": pc.fill_null(pc.if_else(is_tag, tag, None).cast(pa.int64()), -1),
        "duration_seconds": pc.divide(duration, 1000.0).cast(pa.float32()),
        "content_codes": int_lists(np.stack(codes, axis=1)),
    }
    return _post_rows(pa.table(columns).filter(kept))


def unknown_posts(post_ids: NDArray[np.int64]) -> pa.Table:
    """Rows of `posts` for videos of which only their impressions are known; each is its own creator's."""
    creators = np.fromiter((internal_id(f"creator_of_post_{i}") for i in post_ids.tolist()), np.int64, len(post_ids))
    columns = {
        "post_id": pa.array(post_ids),
        "creator_id": pa.array(creators),
        "created_at": pa.repeat(pa.scalar(kuairand_codes.DATA_START, INSTANT), len(post_ids)),
        "topic_id": pa.repeat(pa.scalar(-1, pa.int64()), len(post_ids)),
        "duration_seconds": pa.nulls(len(post_ids), pa.float32()),
        "content_codes": int_lists(np.full((len(post_ids), kuairand_codes.NUM_CONTENT_CODES), -1, np.int32)),
    }
    return _post_rows(pa.table(columns))


def creators(post_rows: pa.Table) -> pa.Table:
    """One row of `creators` per creator of a post, known since their first post."""
    first = post_rows.group_by("creator_id").aggregate([("created_at", "min")]).sort_by("creator_id")
    at = first["created_at_min"]
    columns = {"creator_id": first["creator_id"], "external_id": first["creator_id"].cast(pa.string())}
    return complete("creators", columns | {"event_at": at, "known_at": at}, first.num_rows)


def creators_of(post_ids: NDArray[np.int64], post_rows: pa.Table) -> NDArray[np.int64]:
    """The creator of each post, [N]. Every post has a row."""
    places = positions_in(post_ids, post_rows["post_id"].to_numpy())
    found: NDArray[np.int64] = post_rows["creator_id"].to_numpy()[places]
    return found


def _refuse_repeats(batch: Batch, column: str, values: pa.Array) -> None:
    batch.refuse(occurrences(pc.fill_null(values, -1).to_numpy()) > 0, f"{column}: duplicate id")


def _text_codes(batch: Batch, column: str, known: tuple[str, ...]) -> NDArray[np.int32]:
    """Index of each text in `known`, -1 for any other, [N]."""
    places = pc.index_in(batch.texts(column), pa.array(known))
    codes: NDArray[np.int32] = pc.fill_null(places, -1).to_numpy().astype(np.int32)
    return codes


def _number_codes(batch: Batch, column: str) -> NDArray[np.int32]:
    """The numbers as codes, -1 where unknown, [N]."""
    values = pc.fill_null(batch.integers(column), -1).to_numpy()
    codes: NDArray[np.int32] = np.where((values < 0) | (values >= 2**31), -1, values).astype(np.int32)
    return codes


def _side_codes(batch: Batch, column: str) -> NDArray[np.int32]:
    """Bucket of a side in pixels, -1 where unknown, [N]."""
    pixels = pc.fill_null(batch.numbers(column), 0.0).to_numpy()
    codes: NDArray[np.int32] = (np.digitize(pixels, kuairand_codes.SIDE_EDGES) - 1).astype(np.int32)
    return codes


def _user_rows(user_ids: NDArray[np.int64], codes: NDArray[np.int32], at: NDArray[np.int64]) -> pa.Table:
    instants = pa.array(at).cast(INSTANT)
    columns = {
        "user_id": pa.array(user_ids),
        "external_id": pa.array(user_ids).cast(pa.string()),
        "profile_codes": int_lists(codes),
        "event_at": instants,
        "known_at": not_before(instants, kuairand_codes.DATA_START),
    }
    return complete("users", columns, len(user_ids))


def _post_rows(rows: pa.Table) -> pa.Table:
    columns = {name: rows[name] for name in rows.column_names}
    columns |= {
        "external_id": rows["post_id"].cast(pa.string()),
        "media_type": pa.repeat("video", rows.num_rows),
        "is_recommendable": pa.repeat(True, rows.num_rows),
        "event_at": rows["created_at"],
        "known_at": rows["created_at"],
    }
    return complete("posts", columns, rows.num_rows)
