"""Files of whole numbers, a user and posts per line: what pair splits and sequences have in common."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError

SHOWN_FAULTS = 5


@dataclass(frozen=True)
class Line:
    """One user's posts as they stand in a file."""

    path: Path
    number: int
    user: int
    posts: tuple[int, ...]

    def fault(self, what: str) -> str:
        return f"{self.path}:{self.number}: {what}"


def read_lines(path: Path) -> list[Line]:
    """All lines. Raises InputError, naming file and line, where one is no user with posts, or a user's second."""
    if not path.is_file():
        raise InputError(f"{path} is missing; expected lines of `user post post ...`")
    faults: list[str] = []
    lines: dict[int, Line] = {}
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            user, *posts = map(int, text.split())
        except ValueError:
            faults.append(f"{path}:{number}: {text[:40]!r} is not `user post post ...` in whole numbers")
            continue
        line = Line(path, number, user, tuple(posts))
        if not posts:
            faults.append(line.fault(f"user {user} has no post"))
        if lines.setdefault(user, line) is not line:
            faults.append(line.fault(f"user {user} stands in line {lines[user].number} already"))
    refuse(faults)
    if not lines:
        raise InputError(f"{path} is empty; expected lines of `user post post ...`")
    return list(lines.values())


def refuse(faults: Iterable[str]) -> None:
    """Raises InputError with the first faults and the number of the others, if there are any."""
    found = list(faults)
    if found:
        more = f"\nand {len(found) - SHOWN_FAULTS} more" if len(found) > SHOWN_FAULTS else ""
        raise InputError("\n".join(found[:SHOWN_FAULTS]) + more + "\ncorrect or remove these lines")
