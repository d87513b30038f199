"""Starts the workspace's own Redis again when it has died. A team's Redis, or one that was stopped, is left alone."""

from threading import Lock, Thread

from core.errors import VitrineError
from core.logs import logger
from core.settings import Settings


class RedisKeeper:
    """Told by whoever misses Redis; works in the background, one attempt at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._trying = Lock()

    def __call__(self) -> None:
        """Begins an attempt unless one is under way."""
        if self._settings.redis_url is None and self._trying.acquire(blocking=False):
            Thread(target=self._revive, name="redis-keeper", daemon=True).start()

    def _revive(self) -> None:
        from feature_repo.stores.embedded import revive_redis

        try:
            if revive_redis(self._settings.workspace, self._settings):
                logger("serving").warning("the embedded Redis had died and was started again")
        except (VitrineError, OSError) as error:
            logger("serving").warning("the embedded Redis cannot be started", reason=str(error))
        finally:
            self._trying.release()
