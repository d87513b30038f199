"""Clients that post events and keep to the contract: what was not acknowledged is sent again."""

import threading
import time
from collections import Counter

import httpx

from core.settings import Settings
from events.journal import Journal, JournalEvent


def event(event_id: str, number: int) -> dict:
    return {
        "event_id": event_id, "kind": "click", "user_id": str(number % 30), "post_id": str(2 * (number % 600) + 1),
        "dwell_seconds": number % 60,
    }  # fmt: skip


class Poster(threading.Thread):
    """Posts batches, each again until it is acknowledged, and remembers what was."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__(daemon=True)
        self.url, self.label, self.is_over = url, name, threading.Event()
        self.sent, self.acknowledged, self.wrong = {}, {}, []
        self.num_broken = 0
        """Connections that broke."""

    def run(self) -> None:
        number = 0
        while not self.is_over.is_set():
            batch = [event(f"{self.label}-{number + i}", number + i) for i in range(1 + number % 7)]
            number += len(batch)
            self.sent |= {e["event_id"]: e for e in batch}
            while not self._post(batch):
                if self.is_over.is_set():
                    return
                time.sleep(0.02)
            self.acknowledged |= {e["event_id"]: e for e in batch}

    def _post(self, batch: list[dict]) -> bool:
        try:
            reply = httpx.post(f"{self.url}/events", json={"events": batch}, timeout=30)
        except httpx.TransportError:
            self.num_broken += 1
            return False
        if reply.status_code != 202:
            self.wrong += [] if reply.status_code == 503 else [reply.text]
            return False
        found = reply.json()
        if found["refused"] or found["accepted"] + found["duplicates"] != len(batch):
            self.wrong.append(found)
        return True


def kept(settings: Settings) -> list[JournalEvent]:
    """Every event of the journal."""
    with Journal(settings.workspace.journal) as journal:
        return [found for _, found in journal.since(0, limit=10_000_000)]


def check_journal(settings: Settings, posters: list[Poster]) -> int:
    """Number of acknowledged events, after all of them were found once and as they were sent."""
    acknowledged = {k: v for poster in posters for k, v in poster.acknowledged.items()}
    sent = {k: v for poster in posters for k, v in poster.sent.items()}
    found = kept(settings)
    assert [wrong for poster in posters for wrong in poster.wrong] == []
    assert [k for k, times in Counter(e.event_id for e in found).items() if times > 1] == []
    assert set(acknowledged) <= {e.event_id for e in found} <= set(sent)
    for e in found:
        given = sent[e.event_id]
        assert (str(e.user_id), str(e.post_id), e.dwell_seconds) == (
            given["user_id"], given["post_id"], given["dwell_seconds"],
        )  # fmt: skip
    return len(acknowledged)
