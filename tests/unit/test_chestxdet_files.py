"""ChestX-Det10's files: read and refused, drawn, results in the data set's own format."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr.datasets.chestxdet.files import FINDINGS, read_chestxdet
from cxr.datasets.chestxdet.results import format_result, write_chestxdet_results
from cxr.datasets.chestxdet.synthetic import write_chestxdet
from cxr.datasets.phantom.chest import draw_chest
from cxr.datasets.phantom.findings import DRAW, draw_with_findings, healthy
from cxr.geometry.detections import Detections
from cxr.images.read import convert_image
from cxr.system.errors import InputError

SLUG = "chestx-det10"
SHARED = Path(
    os.environ.get("CXR_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)
needs_sample = pytest.mark.skipif(
    not (SHARED / SLUG).is_dir(), reason=f"no real sample in {SHARED / SLUG}"
)
NODULE = ("Nodule", 1, 2, 30, 40)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / SLUG
    assert write_chestxdet(folder, n_train=8, n_test=3, seed=3, side=96)
    return folder


def entry(name, *findings):
    """An entry of train.json from (finding, x1, y1, x2, y2)."""
    names = [finding[0] for finding in findings]
    boxes = [list(finding[1:]) for finding in findings]
    return {"file_name": name, "syms": names, "boxes": boxes}


def write_set(folder, entries, images=None):
    """A training set with white-less pictures of 64 x 64; entries: a list, or the file's text."""
    (folder / "train_data").mkdir(parents=True)
    text = entries if isinstance(entries, str) else json.dumps(entries)
    (folder / "train.json").write_text(text)
    if images is None:
        images = [one["file_name"] for one in entries]
    for name in images:
        Image.new("L", (64, 64), 7).save(folder / "train_data" / name)
    return folder


# ------------------------------------------------------------------------------- drawn


def test_synthetic_set_is_in_the_true_format(synthetic):
    train = json.loads((synthetic / "train.json").read_text())
    assert len(train) == 9
    for one in train:
        assert one.keys() == {"file_name", "syms", "boxes"}
        assert len(one["syms"]) == len(one["boxes"])
        assert set(one["syms"]) <= set(FINDINGS)
    for path in synthetic.glob("*_data/*.png"):
        with Image.open(path) as picture:
            assert picture.size == (1024, 1024)
    assert len(list((synthetic / "test_data").iterdir())) == 3


def test_synthetic_set_is_kept_and_others_are_refused(synthetic):
    assert write_chestxdet(synthetic, n_train=8, n_test=3, seed=3, side=96) is False
    with pytest.raises(InputError, match="delete it"):
        write_chestxdet(synthetic, n_train=9, n_test=3, seed=3, side=96)


def maps_of(scene):
    return [*scene.lungs, scene.density, scene.markings, scene.bright]


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("lung", [0, 1])
def test_every_finding_lies_in_its_box(name, lung):
    """Most of what a finding changes is inside its box, and the box is no larger than a lung."""
    rng = np.random.default_rng(5)
    scene = healthy(rng, draw_chest(rng, "PA", "F", 50), 128)
    before = maps_of(scene)
    x1, y1, x2, y2 = DRAW[name](rng, scene, lung)
    change = np.zeros((128, 128))
    for new, old in zip(maps_of(scene), before, strict=True):
        change += abs(new - old)
    rows = slice(int(128 * y1), int(np.ceil(128 * y2)))
    columns = slice(int(128 * x1), int(np.ceil(128 * x2)))
    assert change[rows, columns].sum() > 0.6 * change.sum() > 0
    assert 0 <= x1 < x2 <= 1 and x2 - x1 < 0.5
    assert 0 <= y1 < y2 <= 1 and y2 - y1 < 0.75
    assert ((x1 + x2) / 2 > scene.chest.centre) == (lung == 1)


def test_a_picture_with_all_findings_and_one_without():
    rng = np.random.default_rng(1)
    image, findings = draw_with_findings(rng, draw_chest(rng, "AP", "M", 70), list(DRAW), 96)
    assert image.shape == (96, 96) and image.dtype == np.uint8
    assert {name for name, _ in findings} == set(FINDINGS)
    _, no_findings = draw_with_findings(rng, draw_chest(rng, "AP", "M", 70), [], 96)
    assert no_findings == []


# ------------------------------------------------------------------------------- tables


def test_tables_of_the_synthetic_set(synthetic):
    train, test, _ = read_chestxdet(synthetic)
    entries = {one["file_name"]: one for one in json.loads((synthetic / "train.json").read_text())}
    assert len(train) == 8 and len(test) == 3
    assert train["image_id"].is_monotonic_increasing
    for row in train.itertuples():
        wanted = entries[f"{row.image_id}.png"]
        names = []
        boxes = []
        for name, box in zip(wanted["syms"], wanted["boxes"], strict=True):
            if box[2] > box[0]:
                names.append(name)
                boxes.append(box)
        assert json.loads(row.boxes) == boxes and row.n_boxes == len(boxes)
        assert [FINDINGS[label] for label in json.loads(row.box_labels)] == names
        assert row.label == (len(boxes) > 0)
        assert set(row.stratum.split("|")) == (set(names) or {"No finding"})
    assert train["group"].str.startswith("nih_").all()


def test_notes_of_the_synthetic_set(synthetic):
    text = "\n".join(read_chestxdet(synthetic).notes)
    assert "1 images have no file in train_data and were left out, such as 99999.png" in text
    assert "1 boxes of train.json have no area" in text
    assert (
        "2 images of train_data have colours or transparency and were made gray, "
        "such as 36200.png (RGBA)"
    ) in text
    assert "grouped by" in text


@needs_sample
@pytest.mark.sample
def test_tables_of_the_real_sample():
    train, test, notes = read_chestxdet(SHARED / SLUG)
    assert (len(train), train["n_boxes"].sum(), len(test)) == (32, 58, 0)
    labels = np.concatenate([json.loads(text) for text in train["box_labels"]]).astype(int)
    counts = np.bincount(labels, minlength=10)
    assert counts.tolist() == [33, 3, 13, 0, 0, 4, 1, 2, 2, 0]
    assert (train["stratum"] == "No finding").sum() == 7
    text = "\n".join(notes)
    assert "patients are not known" in text and "no test.json" in text


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "is not readable JSON"),
        ('{"a": 1}', "is not a list of entries"),
        ('[{"file_name": "a.png"}]', "is not a list"),
        ([entry("a.png", ("Cold", 1, 2, 3, 4))], "a.png has the unknown finding 'Cold'"),
        ([entry("a.png", NODULE) | {"syms": []}], "a.png has 0 syms but 1 boxes"),
        ([entry("a.png", ("Nodule", 1, 2, 3))], "a.png has a box that is not four numbers"),
        ([entry("a.png", ("Nodule", 1, 2, 3, "x"))], "a.png has a box that is not four numbers"),
    ],
)
def test_labels_that_cannot_be_understood(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        read_chestxdet(write_set(tmp_path, content, images=["a.png"]))


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match=r"train.json is missing: run 01_download.py"):
        read_chestxdet(tmp_path)
    with pytest.raises(InputError, match=r"holds none of the images of train.json"):
        read_chestxdet(write_set(tmp_path, [entry("a.png", NODULE)], images=[]))


def test_oddities_are_counted_and_left_out(tmp_path):
    entries = [
        entry("b.png", NODULE, ("Mass", 5, 5, 5, 9), ("Mass", 9, 9, 3, 12)),
        entry("a.png"),
        entry("a.png", NODULE),
        entry("gone.png", NODULE),
        entry("t.png", NODULE),
    ]
    folder = write_set(tmp_path, entries, images=["a.png", "b.png", "t.png", "extra.png"])
    (folder / "test_data").mkdir()
    shutil.copy(folder / "train_data" / "t.png", folder / "test_data")
    (folder / "test.json").write_text(json.dumps([entry("t.png", NODULE)]))
    train, test, notes = read_chestxdet(folder)
    assert train["image_id"].tolist() == ["a", "b"]
    assert train["n_boxes"].tolist() == [0, 1] and test["n_boxes"].tolist() == [1]
    text = "\n".join(notes)
    for words in (
        "2 boxes of train.json have no area",
        "1 entries of train.json repeat an image",
        "such as gone.png",
        "1 images of train.json are in test.json, too",
        "2 files of train_data are in no list",
    ):
        assert words in text


def test_endings_in_capitals_and_ids_that_are_written_otherwise(tmp_path):
    folder = write_set(tmp_path, [entry("07.png", NODULE), entry("08.PNG")])
    for path in list((folder / "train_data").iterdir()):
        path.rename(path.with_suffix(".PNG"))
    (folder / "nih_mapping.csv").write_text("\ufefffile_name; nih_patient_id\n07.png; 5\n")
    train, _, _ = read_chestxdet(folder)
    assert train["image_id"].tolist() == ["07", "08"]
    assert train["n_boxes"].tolist() == [1, 0]
    assert train["group"].tolist() == ["nih_5", "08"]
    (folder / "train.json").write_text(json.dumps([entry("7.png", NODULE)]))
    with pytest.raises(InputError, match="which lists 7 where the other has 07: write the ids"):
        read_chestxdet(folder)


def test_unlabelled_test_images(tmp_path):
    folder = write_set(tmp_path, [entry("a.png", NODULE)])
    (folder / "test_data").mkdir()
    Image.new("L", (8, 8)).save(folder / "test_data" / "u.png")
    _, test, notes = read_chestxdet(folder)
    assert test["image_id"].tolist() == ["u"] and test["label"].tolist() == [-1]
    assert "1 test images, without labels" in "\n".join(notes)


def test_patients_of_a_mapping_with_gaps(tmp_path):
    folder = write_set(tmp_path, [entry("a.png"), entry("b.png"), entry("c.png")])
    (folder / "nih_mapping.csv").write_text("file_name,nih_patient_id\na.png,00000007\nb.png,\n")
    train, _, notes = read_chestxdet(folder)
    assert train["group"].tolist() == ["nih_00000007", "b", "c"]
    assert "2 images are not in nih_mapping.csv" in "\n".join(notes)
    (folder / "nih_mapping.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"nih_mapping.csv lacks the column"):
        read_chestxdet(folder)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_pictures_of_every_mode_become_the_same_gray(tmp_path, mode):
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    Image.fromarray(ramp).convert(mode).save(tmp_path / "a.png")
    header, reason = convert_image(tmp_path / "a.png", tmp_path / "b.png", 64)
    assert reason == "" and (header.width, header.height) == (64, 64)
    assert np.array_equal(cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED), ramp)


# ------------------------------------------------------------------------------- results


def test_results_by_hand():
    boxes = np.array([[10.04, 20, 30, 40], [0, 0, 100, 80.0]])
    detections = Detections(boxes, np.array([0.75, 0.5]), np.array([3, 0]))
    assert format_result(detections, (100, 80)) == [
        {"nodule": [10.0, 20.0, 30.0, 40.0, 0.75]},
        {"consolidation": [0.0, 0.0, 100.0, 80.0, 0.5]},
    ]
    assert format_result(Detections.empty(), (100, 80)) == []


@pytest.mark.parametrize(
    "box, score, words",
    [
        ([0, 0, 101, 9], 0.5, "outside its image of 100 x 80"),
        ([-1, 0, 9, 9], 0.5, "outside"),
        ([5, 5, 5, 9], 0.5, "no area"),
        ([0, 0, 9, 9], 0.0, "score"),
        ([0, 0, 9, 9], 1.1, "score"),
        ([0, 0, 9, 9], float("nan"), "score"),
    ],
)
def test_wrong_results_are_refused(box, score, words):
    detections = Detections(np.array([box], float), np.array([score]), np.array([0]))
    with pytest.raises(InputError, match=words):
        format_result(detections, (100, 80))


def test_results_are_written_for_each_image_and_as_one_table(tmp_path, synthetic):
    table = read_chestxdet(synthetic).train.iloc[:2].assign(width=1024, height=1024)
    first, second = table["image_id"]
    boxes = np.array([[1.0, 2, 30, 40], [5, 5, 9, 9]])
    detections = Detections(boxes, np.array([0.9, 0.2]), np.array([3, 4]))
    answers = {first: detections, second: Detections.empty()}
    kept = {first: np.array([True, False]), second: np.zeros(0, bool)}
    write_chestxdet_results(tmp_path / "results", answers, kept, table)
    assert json.loads((tmp_path / "results" / f"{first}.json").read_text()) == [
        {"nodule": [1.0, 2.0, 30.0, 40.0, 0.9]},
        {"mass": [5.0, 5.0, 9.0, 9.0, 0.2]},
    ]
    assert json.loads((tmp_path / "results" / f"{second}.json").read_text()) == []
    assert (tmp_path / "results.csv").read_text().splitlines() == [
        "file_name,finding,x1,y1,x2,y2,score,above_threshold",
        f"{first}.png,Nodule,1.0,2.0,30.0,40.0,0.9,True",
        f"{first}.png,Mass,5.0,5.0,9.0,9.0,0.2,False",
    ]
