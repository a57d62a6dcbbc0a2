"""Copies of pictures: hashes, pairs, clusters, groups for the folds, leaks, the sheet for a person's eye."""

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr.data import duplicates
from cxr.data.duplicates import (
    BITS,
    THRESHOLD,
    cluster_report,
    find_clusters,
    find_copies,
    hash_image,
    hash_images,
    join_groups,
    leakage_report,
    similar_pairs,
    spanning,
)
from cxr.data.folds import assign_folds
from cxr.datasets.covid.files import read_covid
from cxr.datasets.covid.synthetic import write_covid
from cxr.images.png import write_png
from cxr.images.read import convert_image
from cxr.plots import duplicate_sheet
from cxr.plots.duplicate_sheet import PER_LINE, pick_pairs, write_copies_sheet


def random_bits(count, seed=0):
    return np.random.default_rng(seed).random((count, 2, BITS)) < 0.5


def changed(bits, count):
    """The bits of a picture (2, 256) with the first so many of them turned, in both views."""
    result = bits.copy()
    result[:, :count] ^= True
    return result


def picture(seed, size=(220, 180)):
    coarse = np.random.default_rng(seed).random((7, 7)).astype(np.float32)
    return (255 * np.clip(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC), 0, 1)).astype(
        np.uint8
    )


def test_hashes_survive_what_copies_suffer():
    """Another size, contrast, noise or the mirror; another picture is far away."""
    image, rng = picture(0), np.random.default_rng(0)
    noisy = np.clip(0.7 * image + 30 + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    copies = [
        cv2.resize(image, (150, 131), interpolation=cv2.INTER_AREA),
        noisy,
        image[:, ::-1],
        cv2.resize(noisy[:, ::-1], (300, 310)),
    ]
    bits = np.array([hash_image(one) for one in [image, *copies, picture(1)]])
    first, second, share, mirrored = similar_pairs(bits, 0.5)
    with_first = {int(b): (s, m) for a, b, s, m in zip(first, second, share, mirrored) if a == 0}
    assert all(with_first[k][0] > 0.97 for k in (1, 2, 3, 4)) and with_first.get(5, (0,))[0] < 0.8
    assert [bool(with_first[k][1]) for k in (1, 2, 3, 4)] == [False, False, True, True]


def test_constant_picture_has_a_hash():
    assert hash_image(np.zeros((20, 30), np.uint8)).shape == (2, BITS)


def plain_pairs(bits, floor):
    """One pair after the other."""
    found = {}
    for i in range(len(bits)):
        for j in range(i + 1, len(bits)):
            plain = (bits[i, 0] == bits[j, 0]).mean()
            turned = max((bits[i, 0] == bits[j, 1]).mean(), (bits[i, 1] == bits[j, 0]).mean())
            if max(plain, turned) > floor:
                found[i, j] = (max(plain, turned), turned > plain)
    return found


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_pairs_against_a_plain_version(block, monkeypatch):
    monkeypatch.setattr(duplicates, "BLOCK", block)
    bits = random_bits(30)
    bits[12], bits[29], bits[3] = changed(bits[4], 9), changed(bits[4], 30), bits[20, ::-1]
    first, second, share, mirrored = similar_pairs(bits, 0.55)
    found = {(int(a), int(b)): (s, bool(m)) for a, b, s, m in zip(first, second, share, mirrored)}
    expected = plain_pairs(bits, 0.55)
    assert found.keys() == expected.keys() and len(found) > 10
    for pair in found:
        assert found[pair] == (pytest.approx(expected[pair][0]), expected[pair][1])
    assert (np.diff(share) <= 0).all() and found[3, 20] == (1, True)


def test_threshold_is_exclusive():
    """0.95 of 256 bits is 243.2: 12 different bits are a copy, 13 are not."""
    bits = random_bits(1)
    pairs = [
        similar_pairs(np.array([bits[0], changed(bits[0], count)]), THRESHOLD)[0]
        for count in (12, 13)
    ]
    assert [len(first) for first in pairs] == [1, 0]


@pytest.mark.parametrize("count", [0, 1])
def test_no_pairs(count):
    assert [len(part) for part in similar_pairs(random_bits(count))] == [0] * 4
    assert find_clusters(count, np.zeros(0, int), np.zeros(0, int)).tolist() == [0] * count


def test_all_images_of_the_competition_are_compared_in_seconds():
    bits = random_bits(6334)
    bits[6000] = changed(bits[17], 5)
    assert list(zip(*similar_pairs(bits)))[0][:2] == (17, 6000)


def test_clusters_are_connected():
    clusters = find_clusters(6, np.array([0, 1, 4]), np.array([1, 3, 5]))
    assert clusters[0] == clusters[1] == clusters[3] and clusters[4] == clusters[5]
    assert len(set(clusters)) == 3


def test_groups_join_patients_and_clusters():
    patients, clusters = ["p2", "p1", "p1", "p3", "p4", "p5"], [0, 0, 1, 1, 2, 3]
    assert join_groups(patients, clusters).tolist() == ["p1", "p1", "p1", "p1", "p4", "p5"]
    assert join_groups(patients).tolist() == patients
    assert join_groups(["p1", "p2"], [1, 2], ["s", "s"]).tolist() == ["p1", "p1"]
    assert len(join_groups([], [])) == 0
    # equal values of different keys are no link
    assert join_groups(["1", "2"], [2, 1]).tolist() == ["1", "2"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=25))
def test_rows_that_share_a_value_share_a_group(rows):
    patients, clusters = zip(*rows)
    groups = join_groups(patients, clusters)
    assert spanning(patients, groups) == spanning(clusters, groups) == (0, 0)
    for group in set(groups):  # and no coarser than needed: such a group cannot be split
        own = groups == group
        assert (
            not own.any()
            or len(set(join_groups(np.array(patients)[own], np.array(clusters)[own]))) == 1
        )


def test_leaks_are_counted():
    folds = [0, 0, 1, 1, 2]
    assert spanning(["a", "b", "b", "c", "c"], folds) == (2, 4)
    assert leakage_report(
        folds, {"patients": ["a", "b", "b", "c", "d"], "studies": list("vwxyz")}
    ) == [
        "1 patients are in more than one fold (2 of 5 images)",
        "0 studies are in more than one fold (0 of 5 images)",
    ]
    assert leakage_report([], {"patients": []}) == [
        "0 patients are in more than one fold (0 of 0 images)"
    ]


def test_clusters_are_reported():
    assert cluster_report(
        np.array([0, 0, 1, 2, 2]), {"cross patients": list("aabbc"), "mix": [1, 0, 1, 1, 0]}
    ) == ("2 clusters of copies hold 4 of 5 images; of these clusters 1 cross patients, 2 mix")
    assert cluster_report(np.zeros(0, int), {"cross patients": []}).startswith(
        "0 clusters of copies hold 0 of 0 images"
    )


@pytest.fixture(scope="module")
def covid(tmp_path_factory):
    """(table of the training images before cleaning, the folder of their pictures)."""
    folder = tmp_path_factory.mktemp("covid")
    write_covid(folder / "input", n_train=40, n_test=0, seed=1, side=128)
    train, _, _ = read_covid(folder / "input", "A")
    clean, _, _ = read_covid(folder / "input", "B")
    train = pd.concat([train, clean[~clean["image_id"].isin(train["image_id"])]], ignore_index=True)
    for row in train.itertuples():
        assert convert_image(row.path, folder / f"{row.image_id}.png", 128)[0]
    return train, folder


def test_a_copy_in_another_patients_study_joins_both(covid):
    train, folder = covid
    clusters, pairs = find_copies(train["image_id"], folder)
    assert (
        len(set(clusters)) < len(train)
        and pairs[2][0] > THRESHOLD
        and spanning(clusters, train["patient"])[0] == 1
    )
    assert (
        spanning(clusters, train["label"])[0] == 0
    )  # no two different pictures are taken for copies
    groups = join_groups(train["group"], clusters)
    assert len(set(groups)) == train["group"].nunique() - 1
    folds = assign_folds(train.assign(group=groups), 4, 42)
    keys = {"patients": train["patient"], "studies": train["study_id"], "clusters": clusters}
    assert all(note.startswith("0 ") for note in leakage_report(folds, keys))


def test_folds_by_study_leak_patients(covid):
    train, _ = covid
    leaks = [
        spanning(train["patient"], assign_folds(train.assign(group=train["study_id"]), 4, seed))[0]
        for seed in range(3)
    ]
    assert max(leaks) > 0 and spanning(train["patient"], assign_folds(train, 4, 42)) == (0, 0)


def test_sheet_shows_both_sides_of_the_threshold(covid, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicate_sheet, "LINES", 1)
    train, folder = covid
    pairs = similar_pairs(hash_images(train["image_id"], folder), 0.8)
    chosen = pick_pairs(pairs[2])
    copies, others = chosen.values()
    assert copies and others and pairs[2][copies].min() > THRESHOLD >= pairs[2][others].max()
    assert (
        copies[0] == (pairs[2] > THRESHOLD).sum() - 1 and others[0] == copies[0] + 1
    )  # nearest to it first
    write_copies_sheet(tmp_path / "sheet.png", train, pairs, folder)
    with Image.open(tmp_path / "sheet.png") as sheet:
        lines = sum(-(-len(rows) // PER_LINE) for rows in chosen.values())
        assert sheet.size == (1800, round(150 * (2.4 + 2.2 * lines)))


def test_sheet_without_pairs(tmp_path):
    table = pd.DataFrame({"image_id": ["a"], "study_id": ["s"], "patient": ["p"], "n_boxes": [0]})
    write_png(tmp_path / "a.png", picture(0))
    write_copies_sheet(
        tmp_path / "sheet.png", table, similar_pairs(hash_images(["a"], tmp_path)), tmp_path
    )
    assert (tmp_path / "sheet.png").stat().st_size > 1000
