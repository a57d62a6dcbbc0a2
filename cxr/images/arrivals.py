"""Which files of a folder have arrived whole, where others are still being copied.

Nobody says when a copy is complete. A file counts as whole when its size and time were the same at
two looks some seconds apart. A copy that stands still for longer is taken for whole and cannot be
read; when it grows again it is a new file, and even one that looks the same is read again after
pauses that double: some programs reserve the whole size first, and network drives tell old sizes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cxr.images.folder import Item, State

LOOK_SECONDS = 5.0  # between two looks; network drives tell a file's size some seconds late
FIRST_PAUSE = 30.0  # seconds until what could not be read is tried again
LONGEST_PAUSE = 3600.0


@dataclass(eq=False)
class Sight:
    """A file in one state, to be read from `due` on (seconds of the clock of `Arrivals.look`)."""

    item: Item
    state: State
    due: float
    failures: int = 0
    done: bool = False

    def put_off(self, now: float) -> None:
        """The file could not be read: try it again later, though it looks the same."""
        self.due = now + min(FIRST_PAUSE * 2**self.failures, LONGEST_PAUSE)
        self.failures += 1


class Arrivals:
    """What was seen in earlier looks."""

    def __init__(self) -> None:
        self.sights: dict[str, Sight] = {}

    def look(self, items: Iterable[Item], now: float) -> list[Sight]:
        """The files that are whole and not done. `now`: seconds of any clock that goes on."""
        sights = {}
        for item in items:
            state = item.state()
            if state is None:
                continue
            sight = self.sights.get(item.name)
            if sight is None or sight.state != state:
                sight = Sight(item, state, due=now + LOOK_SECONDS)
            sights[item.name] = sight
        self.sights = sights  # what is gone is forgotten
        return [sight for sight in sights.values() if not sight.done and now >= sight.due]

    def is_current(self, sight: Sight) -> bool:
        """Whether the file is there in the state in which it was seen."""
        return self.sights.get(sight.item.name) is sight
