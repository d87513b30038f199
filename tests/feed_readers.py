"""Users who scroll while something breaks: every answer they got, and whether it was a whole and honest one."""

import threading
import time
from dataclasses import dataclass, field

import httpx

UNRANKED = {"features", "second_stage", "popular"}
PAGE = 20


@dataclass(frozen=True)
class Reply:
    """`status` 0 is a connection that broke; `visit` tells pages of one scrolling apart from others'."""

    at: float
    seconds: float
    status: int
    visit: tuple[int, int]
    page: dict = field(default_factory=dict)
    retry_after: str | None = None

    @property
    def degraded(self) -> set[str]:
        return set(self.page.get("degraded", ()))

    @property
    def versions(self) -> tuple[str, str | None]:
        """Of the spec and of the second stage."""
        return self.page["spec_version"], self.page["model_versions"].get("second_stage")


class Readers:
    """Threads that ask for feed after feed until the block ends; after `pages` of a visit each starts anew."""

    def __init__(self, url: str, count: int = 2, pages: int = 3, pause_seconds: float = 0.02, keep_alive: bool = True):
        self.replies: list[Reply] = []
        self._url, self._pages, self._pause = url, pages, pause_seconds
        self._limits = None if keep_alive else httpx.Limits(max_keepalive_connections=0)
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(n,), daemon=True) for n in range(count)]

    def __enter__(self) -> "Readers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads)

    def since(self, at: float) -> list[Reply]:
        """Replies to requests that were sent from then on."""
        return [reply for reply in self.replies if reply.at >= at]

    def wait_for(self, count: int) -> list[Reply]:
        """The next replies to requests sent from now on."""
        at, deadline = time.monotonic(), time.monotonic() + 60
        while len(found := self.since(at)) < count:
            assert time.monotonic() < deadline, "feeds hang"
            time.sleep(0.02)
        return found

    def _read(self, number: int) -> None:
        options = {"base_url": self._url, "timeout": 30, **({"limits": self._limits} if self._limits else {})}
        visit, place, cursor = 0, 0, None
        with httpx.Client(**options) as http:
            while not self._is_over.is_set():
                if cursor is None or place == self._pages:
                    visit, place, cursor = visit + 1, 0, None
                reply = self._ask(http, 1 + number + 7 * (visit % 3), (number, visit), cursor)
                self.replies.append(reply)
                place, cursor = place + 1, reply.page.get("next_cursor")
                time.sleep(self._pause)

    @staticmethod
    def _ask(http: httpx.Client, user: int, visit: tuple[int, int], cursor: str | None) -> Reply:
        params = {"user_id": str(user), "limit": PAGE, "explain": True, **({"cursor": cursor} if cursor else {})}
        at = time.monotonic()
        try:
            found = http.get("/feed", params=params)
        except httpx.TransportError:
            return Reply(at, time.monotonic() - at, 0, visit)
        page = found.json() if found.status_code == 200 else {}
        return Reply(at, time.monotonic() - at, found.status_code, visit, page, found.headers.get("retry-after"))


def check_replies(replies: list[Reply], most_broken: int = 0) -> None:
    """Every reply is a whole feed that tells the truth about itself, or a 503 that says when to come back; no visit
    repeats a post. At most `most_broken` connections broke."""
    assert replies
    assert sum(reply.status == 0 for reply in replies) <= most_broken
    shown: dict[tuple[int, int], list[str]] = {}
    for reply in replies:
        if reply.status == 503:
            assert int(reply.retry_after) >= 1
        elif reply.status != 0:
            assert reply.status == 200, reply
            check_page(reply.page)
            shown.setdefault(reply.visit, []).extend(post["post_id"] for post in reply.page["posts"])
    for posts in shown.values():
        assert len(set(posts)) == len(posts)


def check_page(page: dict) -> None:
    """The page is full, and says of itself what its posts show."""
    posts, degraded = page["posts"], set(page["degraded"])
    assert 0 < len(posts) <= PAGE
    num_ranked = sum(bool(post["probabilities"]) for post in posts)
    if not degraded & (UNRANKED | {"second_stage_shortened"}):
        assert num_ranked == len(posts), degraded
    elif not degraded & {"precomputed", "second_stage_shortened"}:
        assert num_ranked < len(posts), degraded  # all of them, unless the page is cut from two slates
    for post in posts:
        assert post["score"] == post["score"]
