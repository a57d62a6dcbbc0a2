"""SIIM COVID-19's files: a folder with known faults, cleaning, submissions, the synthetic set."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from cxr.datasets.covid import synthetic as synthetic_covid
from cxr.datasets.covid.files import CLASSES, read_covid, read_covid_sample
from cxr.datasets.covid.submission import (
    ImageScores,
    Prior,
    check_covid_submission,
    format_covid_submission,
    prevalence,
    read_covid_submission,
)
from cxr.datasets.covid.synthetic import (
    ATYPICAL,
    FIRST,
    INDETERMINATE,
    NEGATIVE,
    TYPICAL,
    draw_study_class,
    write_covid,
)
from cxr.datasets.phantom.chest import draw_chest
from cxr.datasets.phantom.findings import expose, healthy
from cxr.datasets.prediction_strings import format_predictions, parse_predictions
from cxr.geometry.detections import Detections, TrueBoxes
from cxr.images.read import read_image
from cxr.metrics.studies import ALL_CLASSES, competition_scores
from cxr.system.errors import InputError

STUDIES = """\
id,Negative for Pneumonia,Typical Appearance,Indeterminate Appearance,Atypical Appearance
s1_study,0,1,0,0
s2_study,1,0,0,0
s3_study,0,0,1,0
s4_study,0,0,0,1
s5_study,0,0,0,1
"""
FIRST_BOX = "{'x': 10.5, 'y': 20, 'width': 30, 'height': 40}"
SECOND_BOX = "{'x': 1, 'y': 2, 'width': 3, 'height': 4}"
IMAGES = f"""id,boxes,label,StudyInstanceUID
a_image,"[{FIRST_BOX}, {SECOND_BOX}]",opacity 1 10.5 20 40.5 60 opacity 1 1 2 4 6,s1
b_image,,none 1 0 0 1 1,s1
c_image,,none 1 0 0 1 1,s2
d_image,,none 1 0 0 1 1,s2
e_image,,none 1 0 0 1 1,s3
f_image,"[{{'x': 0, 'y': 0, 'width': 5, 'height': 5}}]",opacity 1 0 0 5 5,s4
g_image,,none 1 0 0 1 1,s5
h_image,,none 1 0 0 1 1,s5
"""
SAMPLE = """id,PredictionString
t1_study,negative 1 0 0 1 1
t2_study,negative 1 0 0 1 1
z_image,none 1 0 0 1 1
y_image,none 1 0 0 1 1
"""
STUDY_OF = dict(zip("abcdefgh", ["s1", "s1", "s2", "s2", "s3", "s4", "s5", "s5"], strict=True))


@pytest.fixture
def folder(tmp_path):
    """Files without content stand for images; a patient is then read from none of them."""
    folder = tmp_path / "input" / "siim-covid19-detection"
    for part, tree in (("train", STUDY_OF), ("test", {"z": "t2", "y": "t1"})):
        for image_id, study in tree.items():
            path = folder / part / study / f"series_{image_id}" / f"{image_id}.dcm"
            path.parent.mkdir(parents=True)
            path.touch()
    (folder / "train_study_level.csv").write_text(STUDIES)
    (folder / "train_image_level.csv").write_text(IMAGES)
    (folder / "sample_submission.csv").write_text(SAMPLE)
    return folder


def rewrite(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_tables(folder):
    train, test, notes = read_covid(folder)
    assert train["image_id"].tolist() == list("acdefgh")  # b is unboxed beside the boxed a
    assert train["path"][0] == str(folder / "train" / "s1" / "series_a" / "a.dcm")
    assert train["study_id"].tolist() == ["s1", "s2", "s2", "s3", "s4", "s5", "s5"]
    assert train["group"].tolist() == [f"study_{study}" for study in train["study_id"]]
    assert train["label"].tolist() == [1, 0, 0, 2, 3, 3, 3]
    assert train["stratum"].tolist() == [CLASSES[label] for label in train["label"]]
    assert json.loads(train["boxes"][0]) == [[10.5, 20, 40.5, 60], [1, 2, 4, 6]]
    assert train["box_labels"][0] == "[0, 0]"
    assert train["n_boxes"].tolist() == [2, 0, 0, 0, 1, 0, 0]
    # Not empty but unknown: e, g and h, of positive studies.
    assert train["image_id"][~train["mask_known"]].tolist() == ["e", "g", "h"]
    assert test["image_id"].tolist() == ["z", "y"] and test["study_id"].tolist() == ["t2", "t1"]
    assert (test["label"] == -1).all() and not test["mask_known"].any()
    assert list(test.columns) == list(train.columns)
    assert notes == [
        "cleaning rule B (unboxed images beside a boxed one of their study) left out 1 of 8 "
        "images; 7 images of 5 of 5 studies stay",
        "3 of them have no box though their study is positive: opacities unknown, not absent",
        "7 files do not tell their patient and count as one for each study",
    ]


@pytest.mark.parametrize(
    "rule, kept, studies",
    [("A", "acdf", "3 of 5"), ("B", "acdefgh", "5 of 5"), ("C", "ef", "2 of 5")],
)
def test_cleaning(folder, rule, kept, studies):
    train, _, notes = read_covid(folder, rule)
    assert train["image_id"].tolist() == list(kept)
    assert (
        f"left out {8 - len(kept)} of 8 images; {len(kept)} images of {studies} studies stay"
        in notes[0]
    )


def test_unknown_cleaning_rule(folder):
    with pytest.raises(InputError, match="unknown cleaning rule D: choose from B, A, C"):
        read_covid(folder, "D")


@pytest.mark.parametrize(
    "name, old, new, words",
    [
        (
            "train_study_level.csv",
            "s1_study,0,1,0,0",
            "s1_study,0,1,1,0",
            "1 rows that are not a study of one class.*s1_study",
        ),
        (
            "train_study_level.csv",
            "s1_study,0,1,0,0",
            "s1_study,0,?,0,0",
            "not a study of one class",
        ),
        ("train_study_level.csv", "s1_study", "s1", "not a study of one class"),
        ("train_study_level.csv", "s1_study", "s2_study", "once each"),
        (
            "train_study_level.csv",
            "Typical Appearance",
            "Typical",
            "lacks the column Typical Appearance",
        ),
        ("train_image_level.csv", "a_image", "a", "without an image or study"),
        ("train_image_level.csv", "a_image", "b_image", "without an image or study"),
        (
            "train_image_level.csv",
            "none 1 0 0 1 1,s3",
            "none 1 0 0 1 1,",
            "without an image or study",
        ),
        (
            "train_image_level.csv",
            "'x': 10.5",
            "'x': ",
            "a_image has boxes that cannot be understood",
        ),
        ("train_image_level.csv", "'x': 10.5", "'z': 10.5", "KeyError"),
        ("train_image_level.csv", "'x': 10.5", "'x': 1e999", "not made of finite numbers"),
        ("train_image_level.csv", "'x': 10.5", "'x': open('a')", "cannot be understood"),
    ],
)
def test_broken_tables(folder, name, old, new, words):
    rewrite(folder / name, old, new)
    with pytest.raises(InputError, match=words) as caught:
        read_covid(folder)
    assert name in str(caught.value) and "download" in str(caught.value)


@pytest.mark.parametrize("name", ["train_study_level.csv", "train_image_level.csv"])
def test_missing_table(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is missing: run 01_download.py"):
        read_covid(folder)


def test_no_image_of_the_table(folder):
    (folder / "train").rename(folder / "elsewhere")
    with pytest.raises(InputError, match=r"holds none of the images.*unpack"):
        read_covid(folder)


def test_files_of_a_spreadsheet_program(folder):
    """Semicolons, a mark at the start, and endings in capitals change nothing."""
    expected = read_covid(folder)
    for path in folder.glob("*.csv"):
        pd.read_csv(path, dtype=str).to_csv(path, index=False, sep=";", encoding="utf-8-sig")
    for path in folder.rglob("*.dcm"):
        path.rename(path.with_suffix(".DCM"))
    tables = read_covid(folder)
    assert tables.notes == expected.notes
    for table, usual in ((tables.train, expected.train), (tables.test, expected.test)):
        assert table.drop(columns="path").equals(usual.drop(columns="path"))


def test_some_ids_that_are_written_otherwise(folder):
    rewrite(folder / "sample_submission.csv", "z_image", "Z_image")
    twins = [note for note in read_covid(folder).notes if "write the ids" in note]
    assert [note.split(":")[0] for note in twins] == ["an id of the tables is Z, another z"]


def test_ids_that_are_written_otherwise(folder):
    for path in folder.glob("train/*/*/*.dcm"):
        path.rename(path.with_stem(path.stem.upper()))
    with pytest.raises(InputError, match="which lists a where the other has A: write the ids"):
        read_covid(folder)
    path = folder / "train_study_level.csv"
    path.write_text(path.read_text().replace("\ns", "\nS"))
    words = r"train_study_level.csv holds none of the images of .* lists s1 where the other has S1"
    with pytest.raises(InputError, match=words):
        read_covid(folder)


def test_what_does_not_fit_is_noted(folder):
    rewrite(folder / "train_image_level.csv", "opacity 1 0 0 5 5", "opacity 1 0 0 5 6")
    rewrite(folder / "train_image_level.csv", "1,s3", "1,s9")
    rewrite(folder / "train_study_level.csv", "s4_study,0,0,0,1", "s4_study,1,0,0,0")
    (folder / "train" / "s2" / "series_c" / "c.dcm").unlink()
    (folder / "train" / "s2" / "series_d").rename(folder / "train" / "s5" / "series_d")
    (folder / "train" / "s5" / "series_a").mkdir()
    (folder / "train" / "s5" / "series_a" / "a.dcm").touch()
    text = "\n".join(read_covid(folder).notes)
    for words in (
        "1 images of train_image_level.csv have other boxes in its column label",
        "1 images of train_image_level.csv belong to a study that is not in train_study_level.csv",
        "1 studies of train_study_level.csv have no image",
        "1 images of negative studies have boxes",
        "1 images of train_image_level.csv have no file",
        "1 images stand in the folder of another study",
        "1 files of train have the name of another one",
    ):
        assert words in text


def test_test_set_without_sample(folder):
    (folder / "sample_submission.csv").unlink()
    _, test, notes = read_covid(folder)
    assert test["image_id"].tolist() == ["y", "z"]
    ids = read_covid_sample(folder)["id"].tolist()
    assert ids == ["t1_study", "t2_study", "y_image", "z_image"]
    assert "the 2 files of test are the test set" in "\n".join(notes)


def test_no_test_images(folder):
    (folder / "sample_submission.csv").write_text("id,PredictionString\n")
    (folder / "test").rename(folder / "elsewhere")
    assert len(read_covid(folder)[1]) == 0 and len(read_covid_sample(folder)) == 0
    (folder / "sample_submission.csv").unlink()
    assert len(read_covid(folder)[1]) == 0
    assert list(read_covid_sample(folder).columns) == ["id", "PredictionString"]


def test_sample_names_an_image_that_is_not_there(folder):
    (folder / "test" / "t2" / "series_z" / "z.dcm").unlink()
    _, test, notes = read_covid(folder)
    assert test["image_id"].tolist() == ["y"]
    assert "1 images of sample_submission.csv have no file, and get a guess" in notes


@pytest.mark.parametrize("header", ["id", "Id"])
def test_submission_header(folder, header):
    (folder / "sample_submission.csv").write_text(SAMPLE.replace("id,", f"{header},"))
    table = read_covid_submission(folder / "sample_submission.csv")
    assert list(table.columns) == ["id", "PredictionString"]


PRIOR = Prior(np.array([0.28, 0.47, 0.17, 0.08]), 0.32)
STUDY = {"t1": np.array([0.7, 0.2, 0.05, 0.05]), "t2": np.array([0, 1, 0.5, 0.25])}
IMAGE = {
    "z": ImageScores(np.array([[10.04, 20.06, 300, 400]]), np.array([0.5]), 0.1),
    "y": ImageScores(np.zeros((0, 4)), np.zeros(0), 0.9),
}


def test_submission(folder):
    sample = read_covid_sample(folder)
    table = format_covid_submission(sample["id"], STUDY, IMAGE, PRIOR)
    assert table.to_csv(index=False).splitlines() == [
        "id,PredictionString",
        "t1_study,negative 0.700000 0 0 1 1 typical 0.200000 0 0 1 1 "
        "indeterminate 0.050000 0 0 1 1 atypical 0.050000 0 0 1 1",
        "t2_study,negative 0.000001 0 0 1 1 typical 1.000000 0 0 1 1 "
        "indeterminate 0.500000 0 0 1 1 atypical 0.250000 0 0 1 1",
        "z_image,opacity 0.500000 10 20.1 300 400 none 0.100000 0 0 1 1",
        "y_image,none 0.900000 0 0 1 1",
    ]
    check_covid_submission(table, sample, {"z": (300, 400), "y": (100, 100)})
    answer = parse_predictions(table["PredictionString"][2], ALL_CLASSES)
    assert answer.boxes.tolist() == [[10, 20.1, 300, 400], [0, 0, 1, 1]]
    assert answer.labels.tolist() == [5, 4]


def test_broken_files_get_the_prior(folder):
    sample = read_covid_sample(folder)
    shares, none = prevalence(read_covid(folder)[0])
    assert shares.tolist() == [0.2, 0.2, 0.2, 0.4] and none == pytest.approx(5 / 7)
    table = format_covid_submission(sample["id"], {}, {}, PRIOR)
    check_covid_submission(table, sample, {})
    assert table["PredictionString"][0].startswith("negative 0.280000")
    assert table["PredictionString"][2].startswith("none 0.32")


def test_boxes_that_rounding_flattens_are_left_out():
    boxes = np.array([[5.01, 5, 5.04, 9], [0, 0, 1, 1]])
    detections = Detections(boxes, np.array([0.5, 0.5]), np.array([5, 4]))
    assert format_predictions(detections, ALL_CLASSES) == "none 0.500000 0 0 1 1"


@pytest.mark.parametrize(
    "row, text, words",
    [
        (
            "t1_study",
            "negative 1 0 0 1 1",
            "does not have negative, typical, indeterminate, atypical once each",
        ),
        ("t1_study", "", "once each"),
        ("z_image", "opacity 0.5 1 1 5 5", "does not have none once each"),
        ("z_image", "none 0.5 0 0 1 1 none 0.4 0 0 1 1", "none once each"),
        ("z_image", "none 0.5 0 0 1 1 typical 0.4 0 0 1 1", "none once each"),
        ("z_image", "none 0.5 0 0 2 2", "another box than 0 0 1 1"),
        ("z_image", "none 0 0 0 1 1", "not in"),
        ("z_image", "none 1.5 0 0 1 1", "not in"),
        ("z_image", "none nan 0 0 1 1", "not in"),
        ("z_image", "none 0.5 0 0 1 1 opacity 0.5 5 5 5 9", "no area"),
        ("z_image", "none 0.5 0 0 1 1 opacity 0.5 5 5 9 401", "outside its image of 300 x 400"),
        ("z_image", "none 0.5 0 0 1 1 opacity 0.5 -1 5 9 9", "outside"),
        ("z_image", "none 0.5 0 0 1 1 opacity 0.5 5 5 9", "not a multiple of 6"),
        ("z_image", "nothing 0.5 0 0 1 1", "unknown label 'nothing'"),
        ("z_image", "none x 0 0 1 1", "malformed"),
    ],
)
def test_wrong_submissions(folder, row, text, words):
    sample = read_covid_sample(folder)
    table = format_covid_submission(sample["id"], STUDY, IMAGE, PRIOR)
    table.loc[table["id"] == row, "PredictionString"] = text
    with pytest.raises(InputError, match=f"wrong for {row}.*{words}"):
        check_covid_submission(table, sample, {"z": (300, 400)})


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda table: table.iloc[:-1], "lacks y_image"),
        (lambda table: table.iloc[[0, 1, 3, 2]], "another order"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "repeats t1_study"),
        (lambda table: table.rename(columns={"id": "Id"}), "columns Id, PredictionString"),
    ],
)
def test_submission_must_have_the_rows_of_the_sample(folder, change, words):
    sample = read_covid_sample(folder)
    table = format_covid_submission(sample["id"], STUDY, IMAGE, PRIOR)
    with pytest.raises(InputError, match=words):
        check_covid_submission(change(table), sample, {})


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "siim-covid19-detection"
    assert write_covid(folder, n_train=24, n_test=4, seed=2, side=96)
    return folder


def test_synthetic_set_reads_without_complaint(synthetic):
    train, test, notes = read_covid(synthetic)
    assert len(test) == 4 and "left out" in notes[0] and len(notes) == 2, notes
    everything = pd.read_csv(synthetic / "train_image_level.csv")
    assert len(everything) == 24 and everything["id"].str.fullmatch("[0-9a-f]{12}_image").all()
    assert not train["mask_known"].all() and 0 < (train["n_boxes"] > 1).sum() < len(train)
    assert set(train["label"]) == {0, 1, 2, 3}
    sample = read_covid_sample(synthetic)
    studies = [row for row in sample["id"] if row.endswith("_study")]
    assert studies == sorted(studies) and sample["id"].tolist()[: len(studies)] == studies


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # as in the original
def test_synthetic_set_has_the_oddities_of_the_original(synthetic):
    images = pd.read_csv(synthetic / "train_image_level.csv", dtype=str)
    facts = []
    for path in (synthetic / "train").rglob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        assert header.SOPInstanceUID == path.stem
        facts.append(
            {
                "patient": header.PatientID,
                "study": header.StudyInstanceUID,
                "photometric": header.PhotometricInterpretation,
                "bits": header.BitsStored,
                "syntax": header.file_meta.TransferSyntaxUID,
                "square": header.Rows == header.Columns,
            }
        )
    facts = pd.DataFrame(facts)
    assert len(facts) == 24
    assert images["StudyInstanceUID"].duplicated().any()  # a study with several images
    assert facts.groupby("patient")["study"].nunique().max() > 1
    assert set(facts["photometric"]) == {"MONOCHROME1", "MONOCHROME2"}
    assert set(facts["bits"]) == {12, 14, 16}
    assert facts["syntax"].nunique() == 2
    assert not facts["square"].all()
    labels = pd.read_csv(synthetic / "train_study_level.csv").set_index("id")
    assert (labels.sum(axis=1) == 1).all()
    assert set(labels.index) == set(images["StudyInstanceUID"] + "_study")


def test_all_pictures_are_bright_where_dense(synthetic):
    """MONOCHROME1 is inverted once, whatever the depth: the rim is darker than the middle."""
    for path in sorted((synthetic / "train").rglob("*.dcm")):
        image, header = read_image(path)
        left = int(0.42 * header.width)
        right = int(0.58 * header.width)
        spine = image[int(0.5 * header.height) :, left:right]
        assert spine.mean() > image[: header.height // 12].mean(), path


def test_boxes_lie_in_their_images(synthetic):
    train = read_covid(synthetic)[0]
    for row in train.itertuples():
        header = pydicom.dcmread(row.path, stop_before_pixels=True)
        boxes = np.array(json.loads(row.boxes)).reshape(-1, 4)
        assert (boxes >= 0).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes[:, 2:] <= [header.Columns + 0.01, header.Rows + 0.01]).all()


def test_truth_as_submission_scores_one(synthetic):
    """The tables, read and written in the form of a submission, are the truth."""
    table = pd.read_csv(synthetic / "train_image_level.csv", dtype=str)
    truth = {}
    answers = {}
    for row, text in zip(table["id"], table["label"], strict=True):
        answers[row] = parse_predictions(text, ALL_CLASSES)
        truth[row] = TrueBoxes(answers[row].boxes, answers[row].labels)
    scores = competition_scores(truth, answers)
    assert scores["ap_none"] == scores["ap_opacity"] == 1


def draw_plain(study_class, seed):
    """(picture (96, 96), boxes in 0..1, chest) of a class, nothing else changed."""
    rng = np.random.default_rng(seed)
    scene = healthy(rng, draw_chest(rng, "PA", "M", 50), 96)
    boxes = draw_study_class(rng, scene, study_class)
    return expose(rng, scene), boxes, scene.chest


def mean_inside(image, box):
    """Mean gray value inside a box x1 y1 x2 y2 in 0..1."""
    x1, y1, x2, y2 = (int(96 * edge) for edge in box)
    return image[y1:y2, x1:x2].mean()


@pytest.mark.parametrize("study_class", [INDETERMINATE, ATYPICAL])
def test_one_sided_findings_show(study_class):
    contrasts = []
    for seed in range(12):
        image, boxes, chest = draw_plain(study_class, seed)
        x1, y1, x2, y2 = boxes[0]
        mirrored = (2 * chest.centre - x2, y1, 2 * chest.centre - x1, y2)
        contrasts.append(mean_inside(image, boxes[0]) - mean_inside(image, mirrored))
    assert np.mean(contrasts) > 20


def sides_and_height(study_class, seed):
    """How many lungs have a box, and where in the lung's height the first one's middle is."""
    _, boxes, chest = draw_plain(study_class, seed)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = len(set(middles[:, 0] > chest.centre))
    return sides, (middles[0, 1] - chest.top) / chest.height


@pytest.mark.parametrize(
    "study_class, sides, low, high",
    [(TYPICAL, 2, 0.4, 1), (INDETERMINATE, 1, 0, 0.4), (ATYPICAL, None, 0.6, 1)],
)
def test_classes_differ_by_where_their_boxes_are(study_class, sides, low, high):
    heights = []
    for seed in range(8):
        found_sides, height = sides_and_height(study_class, seed)
        assert sides is None or found_sides == sides
        heights.append(height)
    assert low < np.mean(heights) < high


def test_negative_studies_have_no_boxes():
    assert len(draw_plain(NEGATIVE, 0)[1]) == 0


def test_deterministic_kept_and_empty(tmp_path):
    def content(folder):
        return {
            path.relative_to(folder): path.read_bytes()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }

    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_covid(tmp_path / name, n_train=len(FIRST), n_test=0, seed=seed, side=48)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert set(content(tmp_path / "a")) != set(content(tmp_path / "c"))
    assert write_covid(tmp_path / "a", n_train=len(FIRST), n_test=0, seed=5, side=48) is False
    with pytest.raises(InputError, match="delete it"):
        write_covid(tmp_path / "a", n_train=9, n_test=0, seed=5, side=48)
    assert len(read_covid(tmp_path / "a")[1]) == 0


def test_a_mirrored_copy_has_mirrored_boxes():
    np.testing.assert_allclose(
        synthetic_covid.mirror_boxes(np.array([[0.1, 0.2, 0.4, 0.5]])), [[0.6, 0.2, 0.9, 0.5]]
    )
