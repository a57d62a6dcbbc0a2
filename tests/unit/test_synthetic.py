"""The synthetic RSNA set: the original's format, boxes where the opacities are, whole or absent."""

import csv
import hashlib
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cxr.datasets.phantom import chest as phantom
from cxr.datasets.rsna import synthetic
from cxr.system.errors import InputError

SHARED = Path(
    os.environ.get("CXR_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)
SLUG = "rsna-pneumonia-detection-challenge"
SIDE = 128  # of drawn pictures
COMMON_TAGS = (
    "Modality",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "ConversionType",
    "LossyImageCompressionMethod",
)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def column(path, name):
    return [row[name] for row in read(path)]


def digest(folder):
    """{relative path: checksum} of every file."""
    result = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            result[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return result


# ------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def rsna(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / SLUG
    assert synthetic.write_rsna(folder, n_train=40, n_test=5, seed=3, side=SIDE)
    return folder


def test_files_and_tables_fit_together(rsna):
    labelled = column(rsna / "stage_2_train_labels.csv", "patientId")
    classified = column(rsna / "stage_2_detailed_class_info.csv", "patientId")
    mapped = column(rsna / "nih_mapping.csv", "patientId")
    sample = column(rsna / "stage_2_sample_submission.csv", "patientId")
    train = {path.stem for path in (rsna / "stage_2_train_images").glob("*.dcm")}
    test = {path.stem for path in (rsna / "stage_2_test_images").glob("*.dcm")}
    assert len(train) == 40 and len(test) == 5 and not train & test
    assert set(labelled) == train and set(sample) == test
    assert labelled == classified and len(labelled) > 40
    assert mapped == list(dict.fromkeys(labelled))


def test_classes_have_their_shares(rsna):
    classes = {}
    for row in read(rsna / "stage_2_detailed_class_info.csv"):
        classes[row["patientId"]] = row["class"]
    assert Counter(classes.values()) == {
        "Lung Opacity": 14,
        "No Lung Opacity / Not Normal": 15,
        "Normal": 11,
    }
    for row in read(rsna / "stage_2_train_labels.csv"):
        assert (row["Target"] == "1") == (classes[row["patientId"]] == "Lung Opacity")


def test_only_opacities_have_boxes_and_boxes_lie_in_the_frame(rsna):
    for row in read(rsna / "stage_2_train_labels.csv"):
        cells = [row["x"], row["y"], row["width"], row["height"]]
        if row["Target"] == "0":
            assert cells == [""] * 4
            continue
        x, y, width, height = map(float, cells)
        assert min(x, y) >= 0 and max(x + width, y + height) <= 1024
        assert min(width, height) >= 40


def test_some_patients_have_several_images_and_keep_their_sex(rsna):
    mapping = read(rsna / "nih_mapping.csv")
    patients = Counter(row["nih_patient_id"] for row in mapping)
    assert len(patients) < 40 and max(patients.values()) > 1
    assert len({(row["nih_patient_id"], row["sex"]) for row in mapping}) == len(patients)
    assert len({row["nih_image"] for row in mapping}) == 40
    for row in mapping:
        assert row["nih_image"].startswith(row["nih_patient_id"] + "_")


def test_dicom_is_as_the_original(rsna):
    mapping = {row["patientId"]: row for row in read(rsna / "nih_mapping.csv")}
    for path in sorted((rsna / "stage_2_train_images").glob("*.dcm"))[:6]:
        data = pydicom.dcmread(path)
        assert data.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.50"
        assert data.pixel_array.shape == (1024, 1024) and data.pixel_array.dtype == np.uint8
        assert data.PhotometricInterpretation == "MONOCHROME2" and data.BitsStored == 8
        assert data.PatientID == path.stem and len(data.PixelSpacing) == 2
        row = mapping[path.stem]
        assert data.PatientAge == row["age"]
        assert data.PatientSex == row["sex"]
        assert data.ViewPosition == row["view"]


@pytest.mark.sample
def test_same_headers_and_tags_as_the_real_sample(rsna):
    real = SHARED / SLUG
    if not real.is_dir():
        pytest.skip(f"no real sample in {real}")
    for path in sorted(real.glob("*.csv")):
        assert (rsna / path.name).read_text().splitlines()[0] == path.read_text().splitlines()[0]
    real_file = pydicom.dcmread(next((real / "stage_2_train_images").glob("*.dcm")))
    drawn_file = pydicom.dcmread(next((rsna / "stage_2_train_images").glob("*.dcm")))
    for keyword in COMMON_TAGS:
        assert real_file[keyword].value == drawn_file[keyword].value, keyword


def test_deterministic_in_the_seed(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        synthetic.write_rsna(tmp_path / name, n_train=4, n_test=1, seed=seed, side=64)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert set(digest(tmp_path / "a")) != set(digest(tmp_path / "c"))


def test_whole_set_is_kept_and_others_are_refused(tmp_path):
    folder = tmp_path / "input" / SLUG
    assert synthetic.write_rsna(folder, n_train=3, n_test=1, side=64) is True
    before = digest(folder)
    assert synthetic.write_rsna(folder, n_train=3, n_test=1, side=64) is False
    assert digest(folder) == before
    with pytest.raises(InputError, match="delete it"):
        synthetic.write_rsna(folder, n_train=4, n_test=1, side=64)


def test_real_data_is_never_overwritten(tmp_path):
    (tmp_path / SLUG).mkdir()
    (tmp_path / SLUG / "stage_2_train_labels.csv").write_text("real")
    with pytest.raises(InputError, match="not synthetic"):
        synthetic.write_rsna(tmp_path / SLUG, n_train=2, n_test=1, side=64)
    assert digest(tmp_path / SLUG).keys() == {"stage_2_train_labels.csv"}


def test_killed_run_leaves_no_folder_and_is_done_again(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(synthetic, "write_rsna_tables", killed)
        synthetic.write_rsna(tmp_path / SLUG, n_train=2, n_test=1, side=64)
    assert not (tmp_path / SLUG).exists()
    assert synthetic.write_rsna(tmp_path / SLUG, n_train=2, n_test=1, side=64)
    assert [path.name for path in tmp_path.iterdir()] == [SLUG]


def test_no_test_images(tmp_path):
    synthetic.write_rsna(tmp_path / SLUG, n_train=2, n_test=0, side=64)
    assert read(tmp_path / SLUG / "stage_2_sample_submission.csv") == []


# ------------------------------------------------------------------------------- pictures


def draw(image_class, seed):
    """(picture and boxes, chest) of a drawn X-ray."""
    rng = np.random.default_rng(seed)
    chest = phantom.draw_chest(rng, "PA", "M", 50)
    return phantom.draw_xray(rng, chest, image_class, SIDE), chest


def mean_inside(image, box):
    """Mean gray value inside a box x1 y1 x2 y2 in 0..1."""
    x1, y1, x2, y2 = (int(SIDE * edge) for edge in box)
    return image[y1:y2, x1:x2].mean()


def test_surround_is_the_box_of_the_largest_part():
    mask = np.zeros((10, 10), bool)
    mask[2:5, 3:8] = True
    mask[8, 8] = True
    np.testing.assert_allclose(phantom.surround(mask), [0.3, 0.2, 0.8, 0.5])


def test_soft_is_a_half_on_the_edge():
    values = phantom.soft(np.array([-1.0, 0.0, 1.0]), 0.01)
    np.testing.assert_allclose(values, [0, 0.5, 1], atol=1e-9)


@pytest.mark.parametrize("image_class", [phantom.NORMAL, phantom.NOT_NORMAL])
def test_images_without_opacity_have_no_boxes(image_class):
    (image, boxes), _ = draw(image_class, 1)
    assert image.dtype == np.uint8 and image.shape == (SIDE, SIDE)
    assert boxes.shape == (0, 4)


@pytest.mark.parametrize("seed", range(10))
def test_lungs_are_darker_than_heart_and_background_is_black(seed):
    (image, _), chest = draw(phantom.NORMAL, seed)
    column = int(SIDE * (chest.centre - 0.6 * chest.outer))
    row = int(SIDE * (chest.bottom - 0.2))
    lung = image[row - 4 : row + 4, column - 4 : column + 4].mean()
    heart = image[int(SIDE * (chest.bottom - 0.1)), int(SIDE * chest.centre)]
    assert image[:6, :6].mean() < 0.5 * lung < 0.5 * heart


def test_opacities_are_brighter_than_the_mirrored_lung():
    """Where one lung holds an opacity and the other none, the box must show.

    That is what a detector can learn.
    """
    contrasts = []
    for seed in range(60):
        (image, boxes), chest = draw(phantom.OPACITY, seed)
        if len(boxes) == 1:
            x1, y1, x2, y2 = boxes[0]
            mirrored = (2 * chest.centre - x2, y1, 2 * chest.centre - x1, y2)
            contrasts.append(mean_inside(image, boxes[0]) - mean_inside(image, mirrored))
    assert len(contrasts) > 15 and np.mean(contrasts) > 20


def do_overlap(first, second):
    """Whether two boxes x1 y1 x2 y2 share an area."""
    return (np.minimum(first[2:], second[2:]) > np.maximum(first[:2], second[:2])).all()


def test_boxes_do_not_overlap_and_are_in_number_and_size_like_the_real_ones():
    rng = np.random.default_rng(0)
    grid = phantom.frame_grid(96)
    sizes = []
    counts = []
    for _ in range(200):
        chest = phantom.draw_chest(rng, "AP", "F", 60)
        lungs = [phantom.draw_lung(grid, chest, sign) for sign in (-1, 1)]
        _, boxes = phantom.draw_opacities(rng, grid, lungs, chest)
        counts.append(len(boxes))
        sizes.extend(boxes[:, 2:] - boxes[:, :2])
        for number, box in enumerate(boxes):
            for earlier in boxes[:number]:
                assert not do_overlap(box, earlier)
    width, height = 1024 * np.mean(sizes, axis=0)
    assert 170 < width < 270 and 260 < height < 400
    assert set(counts) <= {1, 2, 3, 4} and 1.3 < np.mean(counts) < 1.8


def test_ap_hearts_are_bigger():
    hearts = {"AP": [], "PA": []}
    for view, widths in hearts.items():
        for seed in range(20):
            chest = phantom.draw_chest(np.random.default_rng(seed), view, "M", 50)
            widths.append(chest.heart)
    assert min(hearts["AP"]) > max(hearts["PA"]) - 0.02
    assert np.mean(hearts["AP"]) > np.mean(hearts["PA"]) + 0.02


def test_negative_classes_differ():
    """Not Normal shows a finding in most images: its lower lung differs from Normal's."""
    means = {}
    for image_class in (phantom.NORMAL, phantom.NOT_NORMAL):
        lower_lungs = [draw(image_class, seed)[0].image[64:100].mean() for seed in range(25)]
        means[image_class] = np.mean(lower_lungs)
    assert means[phantom.NOT_NORMAL] > means[phantom.NORMAL] + 2
