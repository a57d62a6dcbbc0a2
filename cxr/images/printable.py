"""What comes out of a file, made fit for a terminal, a table and a page."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from cxr.system.errors import InputError

# Categories of Unicode: control characters (among them the escape sequences of terminals), marks
# that hide or reverse what follows, halves of characters, separators of lines.
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # marks that words of Persian or Hindi need
# As in "cannot identify image file <_io.BytesIO object at 0x7f...>".
ADDRESS = re.compile(r"<[\w.]+ object at 0x[0-9a-fA-F]+>")
PLUGINS_FAILED = "Unable to decode as exceptions were raised by all available plugins: "
LONGEST_REASON = 300  # characters


def printable(text: object) -> str:
    """The text with question marks in place of what is no visible character."""
    return "".join(map(visible_character, str(text)))


def visible_character(character: str) -> str:
    """The character, or a question mark."""
    if unicodedata.category(character) in HIDDEN and character not in JOINERS:
        return "?"
    return character


def describe_error(error: BaseException) -> str:
    """Kind and words of an error of a library, in one line."""
    words = " ".join(ADDRESS.sub("", str(error)).split())
    words = words.removeprefix(PLUGINS_FAILED)
    return printable(f"{type(error).__name__}: {words}"[:LONGEST_REASON])


class UnreadableImage(InputError):
    """Why a file gives no picture. `reason` says it without the path."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.reason = printable(reason)
        super().__init__(f"{printable(path)}: {self.reason}")
