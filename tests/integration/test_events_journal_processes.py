"""The journal's promise under kill -9 and with several processes: acknowledged means kept, and kept once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from events.journal import Journal

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from events.journal import Journal, JournalEvent
at = datetime(2024, 3, 1, tzinfo=UTC)
first, last, step = (int(a) for a in sys.argv[3:6])
with Journal(Path(sys.argv[2])) as journal:
    for start in range(first, last, step):
        batch = [JournalEvent(f"e{i}", "like", 1, at, at, post_id=i) for i in range(start, start + step)]
        journal.append(batch)
        print(start + step, flush=True)
"""


def writer(path, first, last, step):
    arguments = [sys.executable, "-c", WRITER, str(ROOT), str(path), str(first), str(last), str(step)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def kept(path):
    with Journal(path) as journal:
        return [int(event.event_id[1:]) for _, event in journal.since(0, limit=10**6)]


@pytest.mark.parametrize("acknowledged_before_kill", [1, 7, 25])
def test_a_killed_writer_loses_no_acknowledged_event_and_a_resend_doubles_none(tmp_path, acknowledged_before_kill):
    path = tmp_path / "journal.db"
    run = writer(path, 0, 10**6, 4)
    acknowledged = 0
    for _ in range(acknowledged_before_kill):
        acknowledged = int(run.stdout.readline())
    os.kill(run.pid, signal.SIGKILL)
    for line in run.stdout:
        acknowledged = int(line)
    run.wait()
    run.stdout.close()
    after_kill = kept(path)
    assert set(range(acknowledged)) <= set(after_kill)
    assert len(after_kill) % 4 == 0, "a batch is kept whole or not at all"
    resend = writer(path, 0, len(after_kill) + 4, 4)
    resend.communicate()
    assert resend.returncode == 0
    assert kept(path) == list(range(len(after_kill) + 4))


def test_several_processes_write_at_once_and_every_event_is_kept_once(tmp_path):
    path = tmp_path / "journal.db"
    runs = [writer(path, first, first + 60, 3) for first in (0, 30, 60)]
    for run in runs:
        run.communicate()
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert sorted(kept(path)) == list(range(120))
