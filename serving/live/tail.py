"""Follows the journal in the background, a few times a second, so that what other processes wrote shows up here."""

from threading import Event, Thread

from core.errors import StoreUnavailableError
from core.logs import logger
from serving.live.view import LiveView

PERIOD_SECONDS = 0.25


class Tail:
    """One thread that keeps a view up to date until it is stopped."""

    def __init__(self, view: LiveView, period_seconds: float = PERIOD_SECONDS) -> None:
        self._view = view
        self._period = period_seconds
        self._stop = Event()
        self._thread = Thread(target=self._run, name="journal-tail", daemon=True)
        self.is_behind = False
        """True while the journal does not answer."""

    def start(self) -> None:
        """Begins to follow."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the journal is followed right now."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self._view.catch_up()
                self.is_behind = False
            except StoreUnavailableError as error:
                if not self.is_behind:
                    logger("serving").warning("journal not followed", reason=str(error))
                self.is_behind = True
            except Exception:
                # One event that cannot be applied must not end the thread unseen.
                logger("serving").exception("journal not followed")
                self.is_behind = True
