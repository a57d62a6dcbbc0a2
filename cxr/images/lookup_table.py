"""Lookup tables of DICOM (PS3.3 C.11.1.1 and C.11.2.1.1), also such as their writers got wrong.

A table's descriptor says how many entries there are, which value the first belongs to and how many
bits an entry has. Of these only the number can be trusted: files state 16 bits for tables of 12, or
8 bits for one word each, and write a negative first value as an unsigned one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from cxr.images.header import read_integers, read_values

MOST_ENTRIES = 2**16


@dataclass(frozen=True)
class LookupTable:
    """entries (n,): what the value `first`, and those that follow it, become."""

    entries: np.ndarray
    first: int
    bits: int  # as the file states them

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Values of any shape; those before and behind the table get its first and last entry."""
        # In wide numbers: in those of the pixels the difference would begin again at their end.
        position = np.floor(np.asarray(values, np.float64)) - self.first
        index = np.clip(position, 0, len(self.entries) - 1)
        return self.entries[index.astype(np.int64)]

    def with_sign_of(self, values: np.ndarray, signed: bool) -> LookupTable:
        """The table with its first value read in the sign of the values that it is for.

        Files write it as US or SS whatever the pixels are. `signed`: the values are so by their
        header; else it is told from the values themselves.
        """
        first = self.first
        low = values.min(initial=0)
        high = values.max(initial=0)
        if first >= 2**15 and (signed or low < 0):
            first -= 2**16
        elif first < 0 and not signed and low >= 0 and high >= 2**15:
            first += 2**16
        return LookupTable(self.entries, first, self.bits)


def read_lookup_table(
    item: Dataset, little_endian: bool, descriptor: str = "LUTDescriptor", data: str = "LUTData"
) -> LookupTable | None:
    """The table in an item of a sequence, None where there is none in it.

    little_endian: the order of bytes in the file. descriptor, data: keywords of its two elements.
    """
    described = read_integers(item, descriptor)
    if len(described) < 3:
        return None
    count, first, bits = described[:3]
    if count is None or first is None:
        return None
    count = count % MOST_ENTRIES or MOST_ENTRIES  # 0 stands for 65536
    bits = bits or 16
    entries = unpack_entries(read_values(item, data), count, bits, little_endian)
    if len(entries) == 0:
        return None
    return LookupTable(entries, first, bits)


def unpack_entries(values: Sequence[Any], count: int, bits: int, little_endian: bool) -> np.ndarray:
    """The entries (n,) int64, n at most `count`; fewer where the file holds fewer.

    values: bytes, or the numbers that pydicom made of them.
    """
    words = to_words(values, little_endian)
    if len(words) < count and is_packed(words, count, bits):
        # Two entries of 8 bits in a word, the first in its lower half.
        pairs = np.stack([words & 0xFF, words >> 8], axis=1)
        return pairs.reshape(-1)[:count]
    return words[:count]


def to_words(values: Sequence[Any], little_endian: bool) -> np.ndarray:
    """Words of 16 bits (n,) as int64."""
    if len(values) == 1 and isinstance(values[0], bytes):
        content = values[0][: len(values[0]) // 2 * 2]
        return np.frombuffer(content, "<u2" if little_endian else ">u2").astype(np.int64)
    try:
        return np.array([int(value) & 0xFFFF for value in values], np.int64)
    except (TypeError, ValueError):
        return np.zeros(0, np.int64)


def is_packed(words: np.ndarray, count: int, bits: int) -> bool:
    """Whether a table with fewer words than entries holds two entries in each.

    That is so where the halves make the stated number. In a table that is short anyway, the upper
    halves tell: with one entry of 8 bits in a word they are empty.
    """
    if len(words) == (count + 1) // 2:
        return True
    return bits <= 8 and bool((words > 0xFF).any())
