"""Pictures that are there more than once, as they are or mirrored: hashes, clusters, groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import imagehash
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxr.data.dataset import read_png

# The recipe of three top solutions of SIIM COVID-19 2021: four hashes of 8 x 8 bits, copies share
# more than 95 % of the bits.
HASHES = (imagehash.average_hash, imagehash.phash, imagehash.dhash, imagehash.whash)
BITS = 64 * len(HASHES)
THRESHOLD = 0.95
FLOOR = 0.9  # between it and THRESHOLD lie the pairs that a person should look at
# Pixels; the hashes look at 32 x 32 at most, and shrinking once makes them ten times as fast.
SIDE = 128
BLOCK = 1024  # rows that are compared with all others at once: 25 MB for 6,334 images


class SimilarPairs(NamedTuple):
    """Pairs of pictures by descending similarity; all arrays are (p,).

    first, second: numbers of the pictures, first < second. similarity: share of equal bits.
    mirrored: whether one is like the mirror image of the other.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    mirrored: np.ndarray


class Copies(NamedTuple):
    """clusters (n,): number of the cluster of each picture; pairs: all similar ones."""

    clusters: np.ndarray
    pairs: SimilarPairs


class Spanning(NamedTuple):
    """How many values are in more than one part, and how many rows have such a value."""

    values: int
    rows: int


# ------------------------------------------------------------------------------- pictures


def hash_image(image: np.ndarray) -> np.ndarray:
    """Bits (2, 256) bool of a picture (height, width) uint8 and of its mirror image."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    mirror_image = np.ascontiguousarray(small[:, ::-1])
    return np.array([hash_bits(small), hash_bits(mirror_image)])


def hash_bits(image: np.ndarray) -> np.ndarray:
    """Bits (256,) bool of a picture (height, width) uint8."""
    picture = Image.fromarray(image)
    return np.concatenate([make_hash(picture).hash.ravel() for make_hash in HASHES])


def hash_images(image_ids: Collection[str], folder: Path) -> np.ndarray:
    """Bits (n, 2, 256) of the pictures folder/<image_id>.png, one at a time in memory."""
    bits = [hash_image(read_png(folder / f"{image_id}.png")) for image_id in image_ids]
    return np.array(bits).reshape(len(bits), 2, BITS)


def compare_bits(bits: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of equal bits (n, m) of pictures (n, 2, 256) and others (m, 2, 256), and whether the
    mirror image is the one alike (n, m)."""
    # As +1 and -1, the product of two rows counts equal bits up and different ones down.
    plain, mirrored = np.float32(2) * bits.transpose(1, 2, 0) - 1
    other_plain, other_mirrored = np.float32(2) * others.transpose(1, 2, 0) - 1
    as_is = plain.T @ other_plain
    # Mirroring either of the two must not depend on which of them comes first.
    flipped = np.maximum(plain.T @ other_mirrored, mirrored.T @ other_plain)
    return (BITS + np.maximum(as_is, flipped)) / (2 * BITS), flipped > as_is


def similar_pairs(bits: np.ndarray, floor: float = FLOOR) -> SimilarPairs:
    """The pairs of n pictures that share more than `floor` of their bits (n, 2, 256)."""
    blocks = [np.zeros((0, 4))]
    for start in range(0, len(bits), BLOCK):
        share, mirrored = compare_bits(bits[start : start + BLOCK], bits[start:])
        row, column = np.nonzero(np.triu(share > floor, 1))
        values = [start + row, start + column, share[row, column], mirrored[row, column]]
        blocks.append(np.stack(values, axis=1))
    pairs = np.concatenate(blocks)
    pairs = pairs[np.argsort(-pairs[:, 2], kind="stable")]
    return SimilarPairs(
        first=pairs[:, 0].astype(int),
        second=pairs[:, 1].astype(int),
        similarity=pairs[:, 2],
        mirrored=pairs[:, 3].astype(bool),
    )


def find_clusters(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) number of the cluster of each of `count` pictures, connected by the pairs first (p,),
    second (p,)."""
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return connected_components(links, directed=False)[1]


def find_copies(image_ids: Collection[str], folder: Path) -> Copies:
    """Copies, by THRESHOLD, among the pictures folder/<image_id>.png."""
    pairs = similar_pairs(hash_images(image_ids, folder))
    is_copy = pairs.similarity > THRESHOLD
    clusters = find_clusters(len(image_ids), pairs.first[is_copy], pairs.second[is_copy])
    return Copies(clusters, pairs)


# ------------------------------------------------------------------------------- groups


def join_groups(*keys: Sequence[object] | ArrayLike) -> np.ndarray:
    """(n,) group of each row, such that rows that share a value of one of the keys are in one.

    keys: (n,) each. A group is called after its smallest value of the first key. It is the
    connected component of patients, studies and clusters of copies that one fold must hold whole.
    """
    names = np.asarray(keys[0], str)
    rows = len(names)
    # The nodes of the graph are the rows and then the values of each key.
    first = []
    second = []
    nodes = rows
    for key in keys:
        values, codes = np.unique(np.asarray(key, str), return_inverse=True)
        first.append(np.arange(rows))
        second.append(nodes + codes)
        nodes += len(values)
    clusters = find_clusters(nodes, np.concatenate(first), np.concatenate(second))[:rows]

    smallest: dict[int, str] = {}
    for cluster, name in zip(clusters, names, strict=True):
        smallest[cluster] = min(name, smallest.get(cluster, name))
    return np.array([smallest[cluster] for cluster in clusters], object)


def spanning(keys: ArrayLike, parts: ArrayLike) -> Spanning:
    """Values of `keys` (n,) that occur in more than one of the `parts` (n,)."""
    key_codes = np.unique(np.asarray(keys, str), return_inverse=True)[1]
    part_codes = np.unique(np.asarray(parts, str), return_inverse=True)[1]
    distinct = np.unique(np.stack([key_codes, part_codes]), axis=1)
    parts_of_key = np.bincount(distinct[0], minlength=key_codes.max(initial=-1) + 1)
    in_several = parts_of_key > 1
    return Spanning(int(in_several.sum()), int(in_several[key_codes].sum()))


def leakage_report(folds: ArrayLike, keys: Mapping[str, ArrayLike]) -> list[str]:
    """A sentence for each of the keys {words: values (n,)}: how many are in more than one of the
    folds (n,)."""
    images = len(np.asarray(folds))
    sentences = []
    for words, values in keys.items():
        leaks = spanning(values, folds)
        sentences.append(
            f"{leaks.values} {words} are in more than one fold ({leaks.rows} of {images} images)"
        )
    return sentences


def cluster_report(clusters: np.ndarray, facts: Mapping[str, ArrayLike]) -> str:
    """A sentence about the clusters (n,) of more than one picture.

    facts: {words: values (n,)} that differ inside some of the clusters.
    """
    sizes = np.bincount(clusters, minlength=1)
    counts = []
    for words, values in facts.items():
        counts.append(f"{spanning(clusters, values).values} {words}")
    return (
        f"{(sizes > 1).sum()} clusters of copies hold {sizes[sizes > 1].sum()} of {len(clusters)} "
        f"images; of these clusters {', '.join(counts)}"
    )
