"""New specs and models without a restart: files are watched, and what is usable takes over in one step."""

from collections.abc import Callable
from threading import Event, Thread

from core.errors import VitrineError
from core.logs import logger
from serving.bootstrap import Runtime, parts_for
from serving.funnels import fingerprint
from serving.parts import Parts
from serving.spec import FunnelSpec
from serving.spec_file import load_specs

EVERY_SECONDS = 1.0


class Reloader:
    """Reads the files of a runtime again. Calls must not overlap.

    What is not usable is refused: logged, told by `/readyz`, and the funnels before go on.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._funnels = runtime.funnels
        self._served = runtime.funnels.started_from
        self._before = self._served

    def poll(self) -> bool:
        """Reads again what has changed and then stayed the same for one poll. Whether other funnels serve now."""
        now = fingerprint(self._runtime.workspace, self._runtime.spec_path)
        # A file that is still being written is left alone until it rests.
        is_at_rest, self._before = now == self._before, now
        return is_at_rest and now != self._served and self.reload()

    def reload(self) -> bool:
        """Reads everything again now. Whether other funnels serve since."""
        now = fingerprint(self._runtime.workspace, self._runtime.spec_path)
        current = self._funnels.current
        refused, specs = self._specs()
        parts = current.parts
        if now.models != self._served.models:
            parts = self._parts(parts)
        self._served = now
        # The order counts: the first surface is the default one.
        is_changed = parts is not current.parts or list(specs.items()) != list(current.specs.items())
        if is_changed:
            self._funnels.exchange(self._runtime.renewed(specs, parts))
        # After the exchange: who reads that nothing is refused any more then meets the funnels that were taken.
        self._funnels.spec_refused = refused
        if not is_changed:
            return False
        funnel = self._runtime.funnel
        logger("serving").info("funnels exchanged", spec=funnel.spec.version, models=funnel.model_versions)
        return True

    def _specs(self) -> tuple[str | None, dict[str, FunnelSpec]]:
        """Why the files' specs are refused, if they are, and the specs to serve: the files' where they are usable."""
        if self._runtime.spec_path is not None:
            try:
                return None, load_specs(self._runtime.spec_path)
            except VitrineError as error:
                logger("serving").warning("spec refused, the one before goes on", reason=str(error))
                return str(error), dict(self._funnels.current.specs)
        return None, dict(self._funnels.current.specs)

    def _parts(self, before: Parts) -> Parts:
        """The parts to serve with: the newer ones where they bring no new problem."""
        runtime = self._runtime
        parts = parts_for(runtime.settings, runtime.snapshot, before.reader)
        worse = sorted(parts.problems.keys() - before.problems.keys())
        self._funnels.models_refused = tuple(worse)
        for part in worse:
            # An index is built after its model; the pair takes over once both are there.
            logger("serving").warning("models refused, those before go on", part=part, reason=parts.problems[part])
        return before if worse else parts


class Watcher:
    """Polls from a thread of its own, about once a second or when `ServingFunnels.asked` is set."""

    def __init__(self, runtime: Runtime, every_seconds: float = EVERY_SECONDS) -> None:
        self._funnels = runtime.funnels
        self._reloader = Reloader(runtime)
        self._every = every_seconds
        self._is_over = Event()
        self._thread = Thread(target=self._watch, name="reload", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; waits for an exchange that is under way."""
        self._is_over.set()
        self._funnels.asked.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._is_over.is_set():
            was_asked = self._funnels.asked.wait(self._every)
            self._funnels.asked.clear()
            if not self._is_over.is_set():
                self._try(self._reloader.reload if was_asked else self._reloader.poll)

    def _try(self, look: Callable[[], bool]) -> None:
        try:
            look()
        except Exception as error:
            # Whatever it was, feeds go on from the funnels that serve.
            self._funnels.spec_refused = f"funnels could not be built ({type(error).__name__}); the log says why"
            logger("serving").error("reload failed", error=repr(error))
