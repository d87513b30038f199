"""Served features: sampled, bounded, whole on disk, and never the reason that a feed fails."""

import os
from collections import Counter
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from threading import Event, Thread

import numpy as np
import pytest

from core.errors import InputError
from serving.feature_log import FeatureLog
from serving.feature_log_files import (
    KEEP_DAYS,
    count_feature_log,
    prune_feature_log,
    read_feature_log,
    write_feature_log,
)
from serving.funnel.feature_record import FeatureRecord
from serving.funnel.request import FeedRequest
from tests.serving_fakes import AS_OF, FakeModel, make_parts, make_runtime, make_snapshot

AT = datetime(2026, 3, 14, 23, 59, 59, 123457, tzinfo=UTC)


def make_record(request_id=1, num_posts=3, **changes):
    rng = np.random.default_rng(request_id)
    record = FeatureRecord(
        request_id=request_id,
        user_id=7,
        served_at=AT + timedelta(seconds=request_id),
        data_version="v1",
        spec_version="explore-1",
        model_versions='{"second_stage": "b1"}',
        max_age_seconds=(300.0, 60.0),
        post_ids=np.arange(num_posts),
        creator_ids=np.arange(num_posts) * 10,
        post_read_at=np.array([AT.timestamp(), -np.inf, 5.0])[:num_posts],
        creator_read_at=np.full(num_posts, 3.25),
        user={
            "user_profile__country": np.array([""], dtype=object),
            "user_profile__num_follows": np.array([np.nan], dtype=np.float32),
            "user_history__history_post_ids": np.array([[5, -1, -1]]),
            "request__hour": np.array([23]),
        },
        posts={
            "post_profile__language": np.array(["de", "", "é"], dtype=object)[:num_posts],
            "post_profile__topic_id": np.array([-1, 2, 2**53 + 1])[:num_posts],
            "post_profile__content_embedding": rng.standard_normal((num_posts, 4)).astype(np.float32),
            "user_post_cross__post_age_hours": np.array([np.nan, 0.1, 1e-30], dtype=np.float32)[:num_posts],
        },
    )
    return replace(record, **changes)


def assert_equal_records(left, right):
    for field in fields(FeatureRecord):
        mine, theirs = getattr(left, field.name), getattr(right, field.name)
        if isinstance(mine, dict):
            assert list(mine) == list(theirs)
            for name in mine:
                assert mine[name].dtype == theirs[name].dtype, name
                np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
        elif isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs, err_msg=field.name)
        else:
            assert mine == theirs, field.name


def open_log(tmp_path, share=1.0, max_posts=1000):
    counts = Counter()
    return FeatureLog(tmp_path / "kept", share, lambda what, n: counts.update({what: n}), max_posts=max_posts), counts


def test_records_come_back_bit_for_bit(tmp_path):
    records = [make_record(1), make_record(2, num_posts=1), make_record(3)]
    other = make_record(4, user={"request__hour": np.array([1])})
    paths = write_feature_log(tmp_path, [(r, '{"user_profile": "x"}') for r in [*records, other]])
    assert len(paths) == 2  # other columns, another file
    found = {record.request_id: (record, until) for record, until in read_feature_log(tmp_path)}
    for record in [*records, other]:
        kept, until = found[record.request_id]
        assert_equal_records(record, kept)
        assert until == '{"user_profile": "x"}'


def test_the_last_written_come_first_and_only_as_many_as_wanted(tmp_path):
    for place, requests in enumerate([(1, 2), (3,), (4, 5)]):
        (path,) = write_feature_log(tmp_path, [(make_record(i), "{}") for i in requests])
        os.utime(path, (1000 + place, 1000 + place))
    assert count_feature_log(tmp_path) == 5
    assert [r.request_id for r, _ in read_feature_log(tmp_path)] == [4, 5, 3, 1, 2]
    assert [r.request_id for r, _ in read_feature_log(tmp_path, 4)] == [4, 5, 3, 1]
    assert count_feature_log(tmp_path / "nowhere") == 0


def test_nothing_but_whole_files_lies_in_the_folder(tmp_path):
    write_feature_log(tmp_path, [(make_record(), "{}")])
    assert [p.suffix for p in tmp_path.iterdir()] == [".parquet"]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"x\.parquet"):
        list(read_feature_log(tmp_path))


def test_the_sample_has_the_stated_share_and_a_request_always_the_same_answer(tmp_path):
    log, _ = open_log(tmp_path, share=0.1)
    chosen = [i for i in range(20_000) if log.wants(i)]
    assert 0.09 < len(chosen) / 20_000 < 0.11
    assert all(open_log(tmp_path, share=0.5)[0].wants(i) for i in chosen)
    none, every = open_log(tmp_path, share=0.0)[0], open_log(tmp_path, share=1.0)[0]
    assert not any(none.wants(i) for i in range(500))
    assert all(every.wants(i) for i in range(500))


def test_what_is_kept_is_on_disk_after_close_and_counted(tmp_path):
    log, counts = open_log(tmp_path)
    for request_id in range(5):
        log.keep(make_record(request_id))
    log.close()
    assert {r.request_id for r, _ in read_feature_log(tmp_path / "kept")} == set(range(5))
    assert counts == {"kept": 15}
    log.keep(make_record(9))
    assert counts["dropped"] == 3


def test_a_full_buffer_drops_and_counts(tmp_path):
    log, counts = open_log(tmp_path, max_posts=7)
    for request_id in range(4):
        log.keep(make_record(request_id))
    log.close()
    assert counts == {"kept": 6, "dropped": 6}


def test_writers_of_many_threads_lose_nothing(tmp_path):
    log, counts = open_log(tmp_path, max_posts=10_000)
    start = Event()

    def write(first):
        start.wait()
        for request_id in range(first, first + 50):
            log.keep(make_record(request_id))
            if request_id % 20 == 0:
                log.flush()

    threads = [Thread(target=write, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    start.set()
    for thread in threads:
        thread.join()
    log.close()
    assert len({r.request_id for r, _ in read_feature_log(tmp_path / "kept")}) == 200
    assert counts == {"kept": 600}


def test_a_folder_that_takes_no_file_is_counted_and_raises_nothing(tmp_path):
    (tmp_path / "kept").write_text("in the way")
    log, counts = open_log(tmp_path)
    log.keep(make_record())
    log.close()
    assert counts == {"failed": 3}


def test_files_older_than_the_stated_age_are_dropped(tmp_path):
    (old,) = write_feature_log(tmp_path, [(make_record(1), "{}")])
    (new,) = write_feature_log(tmp_path, [(make_record(2), "{}")])
    leftover = tmp_path / f".{old.name}.abc"
    leftover.write_text("")
    long_ago = old.stat().st_mtime - (KEEP_DAYS * 86_400 + 60)
    for path in (old, leftover):
        os.utime(path, (long_ago, long_ago))
    assert prune_feature_log(tmp_path) == 2
    assert list(tmp_path.iterdir()) == [new]


class WatchedModel(FakeModel):
    """Remembers what it was fed."""

    def probabilities(self, user, post, cross):
        self.fed = {"user": dict(user), "posts": {**post, **cross}}
        return super().probabilities(user, post, cross)


@pytest.fixture
def watched(tmp_path):
    model = WatchedModel()
    parts = replace(make_parts(make_snapshot()), second_stage=model)
    runtime = make_runtime(tmp_path, parts=parts, is_feature_log=True, feature_log_share=1.0)
    yield runtime, model
    runtime.close()


def ask(runtime, request_id=5):
    return runtime.funnel.rank(FeedRequest(2, AS_OF, request_id=request_id, device="web"))


def test_exactly_what_the_second_stage_was_fed_is_kept(watched):
    runtime, model = watched
    slate = ask(runtime)
    runtime.close()
    ((record, _),) = read_feature_log(runtime.workspace.served_features)
    assert (record.request_id, record.user_id, record.served_at) == (5, 2, AS_OF)
    assert record.spec_version == slate.spec_version
    assert record.model_versions == '{"first_stage": "tower-1", "retrieval": "tower-1", "second_stage": "model-1"}'
    assert set(slate.post_ids.tolist()) <= set(record.post_ids.tolist())
    assert (record.post_read_at == AS_OF.timestamp()).all()
    for side in ("user", "posts"):
        kept, fed = getattr(record, side), model.fed[side]
        assert set(kept) == set(fed)
        for name, values in fed.items():
            np.testing.assert_array_equal(kept[name], values, err_msg=name)
    assert {"request__device", "user_history__history_post_ids"} <= set(record.user)
    assert "user_post_cross__post_age_hours" in record.posts


def test_other_funnels_of_the_process_leave_no_trace(watched):
    runtime, _ = watched
    runtime.funnel_for(runtime.spec).rank(FeedRequest(2, AS_OF, request_id=6))
    runtime.close()
    assert list(read_feature_log(runtime.workspace.served_features)) == []


def test_an_error_while_keeping_never_breaks_a_feed(watched, monkeypatch):
    runtime, _ = watched
    monkeypatch.setattr(runtime.feature_log, "wants", lambda request_id: 1 / 0)
    slate = ask(runtime)
    assert len(slate) == runtime.spec.rerank.slate_size
    assert slate.degraded == ()
    assert b'vitrine_feature_log_rows_total{outcome="failed"}' in runtime.metrics.text()


def test_no_share_opens_no_log(tmp_path):
    runtime = make_runtime(tmp_path, is_feature_log=True, feature_log_share=0.0)
    assert runtime.feature_log is None
    runtime.close()
