"""What the processes of one server share: a folder that lives as long as it does, for rates and metrics."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.logs import logger
from serving.shared_metrics import fold


@dataclass(frozen=True)
class Crew:
    """Processes that serve one port."""

    folder: Path

    def ended(self, process: int) -> None:
        """Keeps what a process that ended had counted, and lets go of the rest."""
        try:
            fold(self.folder, process)
        except Exception as error:  # counts matter less than the processes that still serve
            logger("serving").warning("counts of an ended process lost", process=process, reason=type(error).__name__)


@contextmanager
def gathered() -> Iterator[Crew]:
    """A crew; its folder goes with the block."""
    folder = Path(tempfile.mkdtemp(prefix="vitrine-server-"))
    try:
        yield Crew(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
