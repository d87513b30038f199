"""A tiny folder of files in KuaiRand's form."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
USERS = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    "register_days_range," + ",".join(f"onehot_feat{i}" for i in range(18))
)
VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag"
)
DAY_MS, FIRST_MS = 86_400_000, 1_650_816_000_000
"""04-25 begins in China."""


def log_line(user: int, video: int, day: int, hour: int, **labels: int) -> str:
    """One impression on the `day`-th day from 04-25 at a full hour; named labels are 1."""
    at = FIRST_MS + day * DAY_MS + hour * 3_600_000
    date = 20220425 + day if day < 6 else 20220501 + day - 6
    names = ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view")
    values = [labels.get(name, 0) for name in names]
    fields = [user, video, date, hour * 100, at, *values, 900, 9_000, 0, 0, labels.get("is_profile_enter", 0), 0]
    return ",".join(str(field) for field in [*fields, labels.get("tab", 1)])


def write_folder(
    folder: Path, log: list[str], history: list[tuple[int, int, int, int]], num_users: int = 3, num_videos: int = 4
) -> Path:
    """`history` holds (user, pos, video, long_view). Video v is of author v // 2 and lasts 10 (v + 1) seconds."""
    (folder / "log_standard_a.csv").write_text("\n".join([LOG, *log]) + "\n")
    users = [f"{u},full_active,0,0,1,5,500+,1,0,2,0,400,730+" + ",0" * 18 for u in range(num_users)]
    (folder / "user_features_pure.csv").write_text("\n".join([USERS, *users]) + "\n")
    videos = [
        f"{v},{v // 2},NORMAL,2022-04-09,Web,0.0,{10_000.0 * (v + 1)},720.0,1280.0,1,9.0,{v % 3}"
        for v in range(num_videos)
    ]
    (folder / "video_features_basic_pure.csv").write_text("\n".join([VIDEOS, *videos]) + "\n")
    names = ("user_id", "pos", "video_id", "long_view")
    columns: dict[str, list[int]] = {name: [row[i] for row in history] for i, name in enumerate(names)}
    table = pa.table(columns | {"is_like": [0] * len(history), "repeat_in_window": [False] * len(history)})
    pq.write_table(table, folder / "train_tail50_reconstructed.parquet")
    return folder
