"""What KuaiRand's columns mean to us: kinds, code tables and the data's days.

The code tables are append-only: a new value goes to the end, or models trained before would read other codes.
"""

from datetime import UTC, datetime

LABELS = {
    "click": "is_click",
    "like": "is_like",
    "comment": "is_comment",
    "share": "is_forward",
    "follow": "is_follow",
    "long_view": "long_view",
    "see_less": "is_hate",
}
"""Our engagement kinds and KuaiRand's columns."""

LOG_COLUMNS = ("user_id", "video_id", "time_ms", *LABELS.values(), "play_time_ms", "tab", "is_rand")
HISTORY_LABELS = {"long_view": "long_view", "like": "is_like"}
HISTORY_COLUMNS = ("user_id", "pos", "video_id", *HISTORY_LABELS.values())

DATA_START = datetime(2022, 4, 7, 16, tzinfo=UTC)
"""2022-04-08 in China, the data's first day."""
DATA_END = datetime(2022, 5, 9, 16, tzinfo=UTC)
IMPUTED_START = datetime(2022, 4, 10, 16, tzinfo=UTC)
"""2022-04-11 in China, the last upload date: no imputed impression precedes its post."""
IMPUTED_END = datetime(2022, 4, 24, 12, tzinfo=UTC)
"""Before the first dated impression of the log that the history file precedes."""

VIDEO_TYPES = ("NORMAL", "AD")
UPLOAD_TYPES = (
    "LongImport",
    "Web",
    "ShortImport",
    "Kmovie",
    "LongPicture",
    "PictureSet",
    "LongCamera",
    "ShortCamera",
    "ShareFromOtherApp",
    "FollowShoot",
    "AiCutVideo",
    "PhotoCopy",
    "LipsSync",
)
SIDE_EDGES = (1, 480, 540, 720, 1080, 1920)
"""Pixels at which the buckets of the server's width and height begin."""

ACTIVE_DEGREES = (
    "full_active",
    "high_active",
    "middle_active",
    "low_active",
    "single_low_active",
    "2_14_day_new",
    "30day_retention",
    "day_new",
)
FOLLOW_RANGES = ("0", "(0,10]", "(10,50]", "(50,100]", "(100,150]", "(150,250]", "(250,500]", "500+")
FANS_RANGES = (
    "0",
    "[1,10)",
    "[10,100)",
    "[100,1k)",
    "[1k,5k)",
    "[5k,1w)",
    "[1w,10w)",
    "[10w,100w)",
    "[100w,1000w)",
)
FRIEND_RANGES = ("0", "[1,5)", "[5,30)", "[30,60)", "[60,120)", "[120,250)", "250+")
REGISTER_RANGES = ("8-14", "15-30", "31-60", "61-90", "91-180", "181-365", "366-730", "730+")

USER_TEXT_CODES = {
    "user_active_degree": ACTIVE_DEGREES,
    "follow_user_num_range": FOLLOW_RANGES,
    "fans_user_num_range": FANS_RANGES,
    "friend_user_num_range": FRIEND_RANGES,
    "register_days_range": REGISTER_RANGES,
}
USER_NUMBER_CODES = ("is_live_streamer", "is_video_author", *(f"onehot_feat{i}" for i in range(18)))
"""profile_codes are the columns of USER_TEXT_CODES, then these; -124 and null are unknown."""
USER_COLUMNS = ("user_id", "register_days", *USER_TEXT_CODES, *USER_NUMBER_CODES)

VIDEO_COLUMNS = (
    "video_id",
    "author_id",
    "video_type",
    "upload_dt",
    "upload_type",
    "video_duration",
    "server_width",
    "server_height",
    "music_type",
    "tag",
)
NUM_PROFILE_CODES = len(USER_TEXT_CODES) + len(USER_NUMBER_CODES)
NUM_CONTENT_CODES = 5
