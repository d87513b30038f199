"""New specs, models and snapshots without a restart: files are watched, and what is usable takes over in one step."""

from collections.abc import Callable
from threading import Event, Thread

from core.errors import StoreUnavailableError, VitrineError
from core.logs import logger
from serving.bootstrap import Runtime, parts_for
from serving.funnels import FunnelSet, fingerprint
from serving.live.view import LiveSnapshot
from serving.parts import Parts
from serving.snapshot import Snapshot, load_snapshot
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
        served, self._served = self._served, now
        refused, specs = self._specs()
        has_models = now.models != served.models
        # A snapshot that was refused for want of models is looked at again with them.
        has_snapshot = now.snapshot != served.snapshot or (has_models and self._funnels.snapshot_refused is not None)
        is_changed = self._renew(specs, has_models, has_snapshot)
        # After the exchange: who reads that nothing is refused any more then meets the funnels that were taken.
        self._funnels.spec_refused = refused
        if is_changed:
            funnel = self._runtime.funnel
            logger("serving").info(
                "funnels exchanged", spec=funnel.spec.version, models=funnel.model_versions,
                snapshot=funnel.snapshot.snapshot_id,
            )  # fmt: skip
        return is_changed

    def _renew(self, specs: dict[str, FunnelSpec], has_models: bool, has_snapshot: bool) -> bool:
        """Whether other funnels took over."""
        current = self._funnels.current
        if has_snapshot and self._renew_snapshot(specs):
            return True
        newer = self._parts(current.parts, current.snapshot) if has_models else None
        parts = newer or current.parts
        # The order counts: the first surface is the default one.
        if parts is current.parts and list(specs.items()) == list(current.specs.items()):
            return False
        self._funnels.exchange(self._runtime.renewed(specs, parts))
        return True

    def _renew_snapshot(self, specs: dict[str, FunnelSpec]) -> bool:
        """Whether the snapshot on disk took over, with everything that is built over it."""
        current = self._funnels.current
        try:
            snapshot = self._snapshot()
            parts = None if snapshot is None else self._parts(current.parts, snapshot)
            if snapshot is None or parts is None:
                return False
            self._take_over(current, self._runtime.renewed(specs, parts, snapshot))
            for let_go in self._runtime.on_new_snapshot:
                let_go()
        except StoreUnavailableError as error:
            self._refuse_snapshot(f"it cannot catch up with what was written since; trying again ({error})")
            self._served = self._served._replace(snapshot="")
            return False
        except Exception as error:
            # Rows that do not hold together show when something is built over them.
            logger("serving").exception("snapshot not usable")
            self._refuse_snapshot(f"nothing can be built over it ({type(error).__name__}); the log says why")
            return False
        return True

    def _take_over(self, before: FunnelSet, newer: FunnelSet) -> None:
        """Exchanges funnels of two snapshots, between two events: what was written counts in one or the other."""
        old, new = before.live, newer.live
        if old is None or new is None:
            self._funnels.exchange(newer)
            return
        if old.tail.is_running:
            new.tail.start()
        try:
            with old.view.held():
                new.view.catch_up()
                self._funnels.exchange(newer)
        finally:
            (old if self._funnels.current is newer else new).tail.stop()

    def _specs(self) -> tuple[str | None, dict[str, FunnelSpec]]:
        """Why the files' specs are refused, if they are, and the specs to serve: the files' where they are usable."""
        if self._runtime.spec_path is not None:
            try:
                return None, load_specs(self._runtime.spec_path)
            except VitrineError as error:
                logger("serving").warning("spec refused, the one before goes on", reason=str(error))
                return str(error), dict(self._funnels.current.specs)
        return None, dict(self._funnels.current.specs)

    def _snapshot(self) -> Snapshot | None:
        """The snapshot on disk, None where it is the one that serves or cannot be used."""
        self._funnels.snapshot_refused = None
        current = self._funnels.current
        try:
            found = load_snapshot(self._runtime.workspace)
        except VitrineError as error:
            self._refuse_snapshot(str(error))
            return None
        if found.snapshot_id == current.snapshot.snapshot_id:
            return None
        return LiveSnapshot(found) if current.live is not None else found

    def _refuse_snapshot(self, reason: str) -> None:
        self._funnels.snapshot_refused = reason
        logger("serving").warning("snapshot refused, the one before goes on", reason=reason)

    def _parts(self, before: Parts, snapshot: Snapshot) -> Parts | None:
        """The parts on disk for `snapshot`, None where they bring a problem that those before do not have."""
        runtime = self._runtime
        parts = parts_for(runtime.settings, snapshot, before.reader)
        worse = sorted(parts.problems.keys() - before.problems.keys())
        self._funnels.models_refused = tuple(worse)
        for part in worse:
            # An index is built after its model; the pair takes over once both are there.
            logger("serving").warning("models refused, those before go on", part=part, reason=parts.problems[part])
        if not worse or snapshot is self._funnels.current.snapshot:
            return None if worse else parts
        if parts.versions == before.versions:
            return parts  # the same models over newer rows: the last good ones stand in
        self._refuse_snapshot(f"the models on disk are refused ({', '.join(worse)}), and only they fit its rows")
        return None


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
