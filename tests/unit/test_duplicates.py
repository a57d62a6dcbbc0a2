"""Copies of pictures: hashes, pairs, clusters, groups for the folds, leaks, the sheet."""

import math

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


def make_picture(seed, size=(220, 180)):
    coarse = np.random.default_rng(seed).random((7, 7)).astype(np.float32)
    smooth = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    return (255 * np.clip(smooth, 0, 1)).astype(np.uint8)


def by_numbers(pairs):
    """{(first, second): (similarity, mirrored)} of SimilarPairs."""
    result = {}
    for first, second, similarity, mirrored in zip(*pairs, strict=True):
        result[int(first), int(second)] = (similarity, bool(mirrored))
    return result


# ------------------------------------------------------------------------------- pictures


def test_hashes_survive_what_copies_suffer():
    """Another size, contrast, noise or the mirror; another picture is far away."""
    image = make_picture(0)
    noise = np.random.default_rng(0).normal(0, 3, image.shape)
    noisy = np.clip(0.7 * image + 30 + noise, 0, 255).astype(np.uint8)
    pictures = [
        image,
        cv2.resize(image, (150, 131), interpolation=cv2.INTER_AREA),
        noisy,
        image[:, ::-1],
        cv2.resize(noisy[:, ::-1], (300, 310)),
        make_picture(1),
    ]
    bits = np.array([hash_image(picture) for picture in pictures])
    pairs = by_numbers(similar_pairs(bits, 0.5))
    for number, is_mirrored in ((1, False), (2, False), (3, True), (4, True)):
        similarity, mirrored = pairs[0, number]
        assert similarity > 0.97 and mirrored == is_mirrored
    assert pairs.get((0, 5), (0, False))[0] < 0.8


def test_constant_picture_has_a_hash():
    assert hash_image(np.zeros((20, 30), np.uint8)).shape == (2, BITS)


def plain_pairs(bits, floor):
    """One pair after the other."""
    result = {}
    for i in range(len(bits)):
        for j in range(i + 1, len(bits)):
            plain = (bits[i, 0] == bits[j, 0]).mean()
            turned = max((bits[i, 0] == bits[j, 1]).mean(), (bits[i, 1] == bits[j, 0]).mean())
            if max(plain, turned) > floor:
                result[i, j] = (pytest.approx(max(plain, turned)), turned > plain)
    return result


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_pairs_against_a_plain_version(block, monkeypatch):
    monkeypatch.setattr(duplicates, "BLOCK", block)
    bits = random_bits(30)
    bits[12] = changed(bits[4], 9)
    bits[29] = changed(bits[4], 30)
    bits[3] = bits[20, ::-1]
    pairs = similar_pairs(bits, 0.55)
    assert by_numbers(pairs) == plain_pairs(bits, 0.55)
    assert len(pairs.first) > 10
    assert (np.diff(pairs.similarity) <= 0).all()
    assert by_numbers(pairs)[3, 20] == (1, True)


@pytest.mark.parametrize("different, copies", [(12, 1), (13, 0)])
def test_threshold_is_exclusive(different, copies):
    """0.95 of 256 bits is 243.2: 12 different bits are a copy, 13 are not."""
    bits = random_bits(1)
    both = np.array([bits[0], changed(bits[0], different)])
    assert len(similar_pairs(both, THRESHOLD).first) == copies


@pytest.mark.parametrize("count", [0, 1])
def test_no_pairs(count):
    pairs = similar_pairs(random_bits(count))
    assert [len(values) for values in pairs] == [0] * 4
    assert find_clusters(count, pairs.first, pairs.second).tolist() == [0] * count


def test_all_images_of_the_competition_are_compared_in_seconds():
    bits = random_bits(6334)
    bits[6000] = changed(bits[17], 5)
    pairs = similar_pairs(bits)
    assert (pairs.first[0], pairs.second[0]) == (17, 6000)


def test_clusters_are_connected():
    clusters = find_clusters(6, np.array([0, 1, 4]), np.array([1, 3, 5]))
    assert clusters[0] == clusters[1] == clusters[3] and clusters[4] == clusters[5]
    assert len(set(clusters)) == 3


# ------------------------------------------------------------------------------- groups


def test_groups_join_patients_and_clusters():
    patients = ["p2", "p1", "p1", "p3", "p4", "p5"]
    clusters = [0, 0, 1, 1, 2, 3]
    assert join_groups(patients, clusters).tolist() == ["p1", "p1", "p1", "p1", "p4", "p5"]
    assert join_groups(patients).tolist() == patients
    assert join_groups(["p1", "p2"], [1, 2], ["s", "s"]).tolist() == ["p1", "p1"]
    assert len(join_groups([], [])) == 0


def test_equal_values_of_different_keys_are_no_link():
    assert join_groups(["1", "2"], [2, 1]).tolist() == ["1", "2"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=25))
def test_rows_that_share_a_value_share_a_group(rows):
    patients, clusters = np.array(rows).T
    groups = join_groups(patients, clusters)
    assert spanning(patients, groups) == spanning(clusters, groups) == (0, 0)
    for group in set(groups):  # and no coarser than needed: such a group cannot be split
        members = groups == group
        assert len(set(join_groups(patients[members], clusters[members]))) == 1


def test_leaks_are_counted():
    folds = [0, 0, 1, 1, 2]
    assert spanning(["a", "b", "b", "c", "c"], folds) == (2, 4)
    keys = {"patients": ["a", "b", "b", "c", "d"], "studies": list("vwxyz")}
    assert leakage_report(folds, keys) == [
        "1 patients are in more than one fold (2 of 5 images)",
        "0 studies are in more than one fold (0 of 5 images)",
    ]
    nothing = leakage_report([], {"patients": []})
    assert nothing == ["0 patients are in more than one fold (0 of 0 images)"]


def test_clusters_are_reported():
    facts = {"cross patients": list("aabbc"), "mix": [1, 0, 1, 1, 0]}
    assert cluster_report(np.array([0, 0, 1, 2, 2]), facts) == (
        "2 clusters of copies hold 4 of 5 images; of these clusters 1 cross patients, 2 mix"
    )
    nothing = cluster_report(np.zeros(0, int), {"cross patients": []})
    assert nothing.startswith("0 clusters of copies hold 0 of 0 images")


# ------------------------------------------------------------------------------- a data set


@pytest.fixture(scope="module")
def covid(tmp_path_factory):
    """(table of the training images before cleaning, the folder of their pictures)."""
    folder = tmp_path_factory.mktemp("covid")
    write_covid(folder / "input", n_train=40, n_test=0, seed=1, side=128)
    without_unboxed = read_covid(folder / "input", "A").train
    one_of_study = read_covid(folder / "input", "B").train
    missing = ~one_of_study["image_id"].isin(without_unboxed["image_id"])
    train = pd.concat([without_unboxed, one_of_study[missing]], ignore_index=True)
    for row in train.itertuples():
        assert convert_image(row.path, folder / f"{row.image_id}.png", 128)[0]
    return train, folder


def test_a_copy_in_another_patients_study_joins_both(covid):
    train, folder = covid
    clusters, pairs = find_copies(train["image_id"], folder)
    assert len(set(clusters)) < len(train) and pairs.similarity[0] > THRESHOLD
    assert spanning(clusters, train["patient"]).values == 1
    # No two different pictures are taken for copies.
    assert spanning(clusters, train["label"]).values == 0
    groups = join_groups(train["group"], clusters)
    assert len(set(groups)) == train["group"].nunique() - 1
    folds = assign_folds(train.assign(group=groups), 4, 42)
    keys = {"patients": train["patient"], "studies": train["study_id"], "clusters": clusters}
    for sentence in leakage_report(folds, keys):
        assert sentence.startswith("0 ")


def test_folds_by_study_leak_patients(covid):
    train, _ = covid
    by_study = train.assign(group=train["study_id"])
    leaks = []
    for seed in range(3):
        leaks.append(spanning(train["patient"], assign_folds(by_study, 4, seed)).values)
    assert max(leaks) > 0
    assert spanning(train["patient"], assign_folds(train, 4, 42)) == (0, 0)


# ------------------------------------------------------------------------------- the sheet


def test_sheet_shows_both_sides_of_the_threshold(covid, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicate_sheet, "LINES", 1)
    train, folder = covid
    pairs = similar_pairs(hash_images(train["image_id"], folder), 0.8)
    copies, others = pick_pairs(pairs.similarity).values()
    assert pairs.similarity[copies].min() > THRESHOLD >= pairs.similarity[others].max()
    # Those nearest to the threshold come first.
    assert copies[0] == (pairs.similarity > THRESHOLD).sum() - 1
    assert others[0] == copies[0] + 1

    write_copies_sheet(tmp_path / "sheet.png", train, pairs, folder)
    lines = math.ceil(len(copies) / PER_LINE) + math.ceil(len(others) / PER_LINE)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (1800, round(150 * (2.4 + 2.2 * lines)))


def test_sheet_without_pairs(tmp_path):
    table = pd.DataFrame({"image_id": ["a"], "study_id": ["s"], "patient": ["p"], "n_boxes": [0]})
    write_png(tmp_path / "a.png", make_picture(0))
    pairs = similar_pairs(hash_images(["a"], tmp_path))
    write_copies_sheet(tmp_path / "sheet.png", table, pairs, tmp_path)
    assert (tmp_path / "sheet.png").stat().st_size > 1000
