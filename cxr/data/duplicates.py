"""Pictures that are there more than once, as they are or mirrored: hashes, clusters, groups for the folds."""

import cv2
import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxr.data.dataset import read_png

# The recipe of three top solutions of SIIM COVID-19 2021: four hashes of 8 x 8 bits, copies share more than 95 % of
# the bits. Between THRESHOLD and FLOOR lie the pairs that a person should look at.
HASHES = (imagehash.average_hash, imagehash.phash, imagehash.dhash, imagehash.whash)
BITS = 64 * len(HASHES)
THRESHOLD, FLOOR = 0.95, 0.9
SIDE = 128  # pixels; the hashes look at 32 x 32 pixels at most, and shrinking once makes them ten times as fast
BLOCK = 1024  # rows that are compared with all others at once: 25 MB for 6,334 images


def hash_image(image):
    """Bits (2, 256) bool of a picture (height, width) uint8 and of its mirror image."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    views = [Image.fromarray(view) for view in (small, np.ascontiguousarray(small[:, ::-1]))]
    return np.array(
        [np.concatenate([find(view).hash.ravel() for find in HASHES]) for view in views]
    )


def hash_images(ids, folder):
    """Bits (n, 2, 256) of the pictures folder/<image_id>.png, one at a time in memory."""
    found = [hash_image(read_png(folder / f"{image_id}.png")) for image_id in ids]
    return np.array(found).reshape(len(found), 2, BITS)


def similarity(bits, others):
    """(share of equal bits (n, m), whether the mirror image is the one alike (n, m)) of (n, 2, 256) and (m, 2, 256)."""
    (own, mirrored), (as_is, turned) = (
        np.float32(2) * part.transpose(1, 2, 0) - 1 for part in (bits, others)
    )
    plain = own.T @ as_is
    flipped = np.maximum(
        own.T @ turned, mirrored.T @ as_is
    )  # one does not depend on which of the two comes first
    return (BITS + np.maximum(plain, flipped)) / (2 * BITS), flipped > plain


def similar_pairs(bits, floor=FLOOR):
    """(first (p,), second (p,), similarity (p,), mirrored (p,) bool) of the pairs of n pictures that share more than
    `floor` of their bits (n, 2, 256), first < second, the most similar ones first."""
    found = [np.zeros((0, 4))]
    for start in range(0, len(bits), BLOCK):
        share, mirrored = similarity(bits[start : start + BLOCK], bits[start:])
        row, column = np.nonzero(np.triu(share > floor, 1))
        found.append(
            np.stack(
                [start + row, start + column, share[row, column], mirrored[row, column]], axis=1
            )
        )
    pairs = np.concatenate(found)
    first, second, share, mirrored = pairs[np.argsort(-pairs[:, 2], kind="stable")].T
    return first.astype(int), second.astype(int), share, mirrored.astype(bool)


def find_clusters(count, first, second):
    """(n,) number of the cluster of each of `count` pictures, connected by the pairs first (p,), second (p,)."""
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return connected_components(links, directed=False)[1]


def find_copies(ids, folder):
    """(clusters (n,), pairs) of the pictures folder/<image_id>.png: copies by THRESHOLD, and all `similar_pairs`."""
    pairs = similar_pairs(hash_images(ids, folder))
    copies = pairs[2] > THRESHOLD
    return find_clusters(len(ids), pairs[0][copies], pairs[1][copies]), pairs


def join_groups(*keys):
    """(n,) group of each row, such that rows that share a value of one of the `keys`, each (n,), are in one group.

    A group is called after its smallest value of the first key. It is the connected component of patients, studies and
    clusters of copies that one fold must hold whole.
    """
    rows, names = len(keys[0]), np.asarray(keys[0], str)
    first, second, nodes = [], [], rows
    for key in keys:
        codes = np.unique(np.asarray(key, str), return_inverse=True)[1]
        first.append(np.arange(rows))
        second.append(nodes + codes)
        nodes += len(set(codes))
    groups = find_clusters(nodes, np.concatenate(first), np.concatenate(second))[:rows]
    smallest = {}
    for group, name in zip(groups, names):
        smallest[group] = min(name, smallest.get(group, name))
    return np.array([smallest[group] for group in groups], object)


def spanning(keys, parts):
    """(values of `keys` (n,) that occur in more than one of the `parts` (n,), rows that have such a value)."""
    keys, parts = (
        np.unique(np.asarray(values, str), return_inverse=True)[1] for values in (keys, parts)
    )
    pairs = np.unique(np.stack([keys, parts]), axis=1)
    several = np.bincount(pairs[0], minlength=keys.max(initial=-1) + 1) > 1
    return int(several.sum()), int(several[keys].sum())


def leakage_report(folds, keys):
    """A sentence for each of the keys {words: values (n,)}: how many are in more than one of the folds (n,)."""
    found = {words: spanning(values, folds) for words, values in keys.items()}
    return [
        f"{values} {words} are in more than one fold ({images} of {len(folds)} images)"
        for words, (values, images) in found.items()
    ]


def cluster_report(clusters, facts):
    """A sentence about the clusters (n,) of more than one picture, with the facts {words: values (n,)} that differ
    inside some of them."""
    sizes = np.bincount(clusters, minlength=1)
    inside = ", ".join(
        f"{spanning(clusters, values)[0]} {words}" for words, values in facts.items()
    )
    return (
        f"{(sizes > 1).sum()} clusters of copies hold {sizes[sizes > 1].sum()} of {len(clusters)} images; "
        f"of these clusters {inside}"
    )
