"""report.html: which images it shows, its tables, and that it appears whatever is missing."""

import itertools
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import NAN, OUTSIDE, image_table, report_input, write_run

from cxr.methods.classifier.study_scorer import STUDY_WORDS
from cxr.methods.evaluation import Baseline, Boxes, FoldResult
from cxr.methods.segmenter.scorer import MASK_WORDS
from cxr.metrics.curves import PrecisionRecallCurve, SensitivityLine
from cxr.metrics.froc import FrocCurve
from cxr.metrics.pooled_boxes import ClassCurve
from cxr.plots.gallery import make_thumbnail
from cxr.run_folder import RunFolder
from cxr.steps.postprocess.answered_images import AnsweredImages
from cxr.steps.postprocess.cases import EXAMPLES, GalleryInput, image_outcomes, pick_cases
from cxr.steps.postprocess.report import complete_images, write_report
from cxr.steps.postprocess.report_tables import (
    Bar,
    bars_axis,
    confusion_rows,
    divisions_of_patients,
)
from cxr.steps.postprocess.run_records import across_folds, read_configs, read_logs

PICTURES = ("curves", "sensitivity", "detection", "gallery")
LINE = SensitivityLine([0.1, 0.5], [0.1, 0.25], 0.5)


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.tile(np.arange(256, dtype=np.uint8), (256, 1)))
    return path


def page_of(folder, report):
    """The text of the report's page."""
    return write_report(folder / "report.html", report).read_text(encoding="utf-8")


def gallery_of(images, true=None, predicted=None, **fields):
    images = complete_images(images)
    return pick_cases(GalleryInput(images, true or Boxes(), predicted or Boxes(), **fields))


def last_digits(cases):
    return [case.row.image_id[-1] for case in cases]


# ---------------------------------------------------------------- outcomes and tables


def test_every_image_has_the_outcome_a_person_would_give_it():
    images = image_table(
        6,
        n_true=[1, 1, 1, 0, 0, 2],
        n_pred=[1, 2, 0, 1, 0, 1],
        score=[0.5, 0.0, 0.0, 0.0, NAN, NAN],
    )
    expected = ["found", "misplaced", "missed", "alarm", "empty", "misplaced"]
    assert list(image_outcomes(images)) == expected


image_rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 0.4, NAN])), max_size=30
)


@given(image_rows)
@settings(max_examples=50, deadline=None)
def test_outcomes_agree_with_the_counts(rows):
    n_true = np.array([row[0] for row in rows], int)
    n_pred = np.array([row[1] for row in rows], int)
    score = np.array([row[2] for row in rows], float)
    outcomes = image_outcomes(image_table(len(rows), n_true=n_true, n_pred=n_pred, score=score))
    assert (outcomes.isin(["alarm", "empty"]).to_numpy() == (n_true == 0)).all()
    assert (outcomes.isin(["missed", "empty"]).to_numpy() == (n_pred == 0)).all()


def test_groups_of_patients_by_hand():
    images = image_table(
        14,
        sex=["F"] * 12 + ["M", ""],
        score=[1.0, 0.5] + [0.0] * 8 + [NAN, NAN, 0.25, NAN],
        n_true=[1, 1, 1] + [0] * 9 + [1, 0],
        n_pred=[1, 1, 0] + [1] * 7 + [0, 0, 1, 0],
        age=[17, 18] + [NAN] * 12,
    )
    sex, age = divisions_of_patients(complete_images(images))
    assert [sex.title, age.title] == ["Sex", "Age"], "the view is not recorded"

    female, male, unknown = sex.rows
    assert [row.label for row in sex.rows] == ["Female", "Male", "not stated"]
    assert [female.images, female.counted] == [12, 10]
    assert [female.marked, female.missed] == [3, 1]
    assert [female.unmarked, female.alarms] == [9, 7]
    assert not female.few
    assert female.score == pytest.approx(0.15)
    assert female.low <= 0.15 <= female.high
    assert male.score == 0.25
    assert np.isnan(male.low)
    assert male.few
    assert np.isnan(unknown.score)
    assert unknown.counted == 0

    ages = [(row.label, row.images) for row in age.rows]
    assert ages == [("under 18", 1), ("18 to 39", 1), ("not stated", 12)]


def test_intervals_of_groups_draw_patients_whole():
    alone = image_table(40, sex="F", score=[1.0] * 20 + [0.0] * 20)
    together = alone.assign(group=["a"] * 20 + ["b"] * 20)
    [single] = divisions_of_patients(complete_images(alone))[0].rows
    [grouped] = divisions_of_patients(complete_images(together))[0].rows
    assert [grouped.low, grouped.high] == [0, 1]
    assert single.low > 0.2
    assert single.high < 0.8


def test_confusion_by_hand():
    images = image_table(6, label=[0, 0, 0, 1, 1, -1], predicted=[0, 0, 1, 1, 7, 0])
    assert confusion_rows(images, ["A", "B", "C"]) == [
        ("A", 3, [(2, 2 / 3), (1, 1 / 3), (0, 0.0)]),
        ("B", 1, [(0, 0.0), (1, 1.0), (0, 0.0)]),
        ("C", 0, [(0, 0.0), (0, 0.0), (0, 0.0)]),
    ]


def test_without_known_classes_there_is_no_confusion():
    assert confusion_rows(image_table(3), ["A", "B"]) == []
    images = image_table(6, label=[0, 0, 0, 1, 1, -1], predicted=[0, 0, 1, 1, 7, 0])
    assert confusion_rows(images, []) == []


@pytest.mark.parametrize(
    "bars, highest",
    [
        ([Bar("a", 0.25, (0.2, 0.31))], 0.31),
        ([Bar("a", NAN, None)], 0.5),
        ([], 0.5),
        ([Bar("a", 0.0, None)], 0.5),
        ([Bar("a", 1.0, None)], 1.0),
    ],
)
def test_an_axis_begins_at_zero_and_holds_everything(bars, highest):
    axis = bars_axis(bars)
    assert axis.ticks[0] == 0
    assert axis.ticks[-1] == axis.top >= highest
    assert 3 <= len(axis.ticks) <= 6


# ---------------------------------------------------------------- what a run left on disk


def test_logs_are_read_forgivingly(tmp_path):
    logs = {
        "fold0": "epoch,metric\n2,0.2\n1,\n2,0.3\n",
        "fold1": "",
        "fold2": "epoch,metric\n",
        "fold10": "epoch,metric\n1,oops\n",
    }
    for name, content in logs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.csv").write_text(content)
    (tmp_path / "fold3").mkdir()
    (tmp_path / "folds").mkdir()
    by_fold, problems = read_logs(RunFolder(tmp_path))
    assert list(by_fold) == [0, 10]
    assert by_fold[0]["epoch"].tolist() == [1, 2]
    assert by_fold[0]["metric"].tolist()[1] == 0.3
    assert np.isnan(by_fold[10]["metric"][0])
    folds = [re.search(r"fold \d|Fold \d", problem)[0] for problem in problems]
    assert folds == ["fold 1", "fold 2", "Fold 3"]


def test_settings_of_folds_are_merged_where_they_agree():
    records = {
        0: {"a": 1, "v": {"torch": "2.9"}, "d": 3},
        1: {"a": 1, "v": {"torch": "2.8"}},
    }
    expected = {"a": "1", "v.torch": "fold 0: 2.9\nfold 1: 2.8", "d": "3"}
    assert across_folds(records) == expected


def test_broken_settings_are_a_problem(tmp_path):
    (tmp_path / "fold0").mkdir()
    (tmp_path / "fold0" / "config.json").write_text("{")
    by_fold, [problem] = read_configs(RunFolder(tmp_path))
    assert by_fold == {}
    assert "config.json" in problem


# ---------------------------------------------------------------- the gallery


def test_gallery_puts_the_telling_cases_first(png):
    images = image_table(
        8,
        png=png,
        n_true=[1, 1, 1, 1, 1, 0, 0, 0],
        n_pred=[1, 1, 1, 0, 0, 1, 1, 0],
        score=[0.4, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, NAN],
        best_score=[0.9, 0.5, 0.6, 0, 0, 0.2, 0.8, 0],
    )
    true = Boxes({"id00003": [[0, 0, 10, 10]], "id00004": [[0, 0, 20, 20]]})
    groups = gallery_of(images, true)
    assert {group.title: last_digits(group.cases) for group in groups} == {
        "Best": ["1", "0"],
        "Typical": ["2", "3", "4", "0"],
        "Worst: misplaced": ["2"],
        "Worst: missed": ["4", "3"],
        "Worst: false alarms": ["6", "5"],
        "Rightly empty": ["7"],
    }


def test_gallery_passes_over_missing_pictures_and_is_limited(png, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    pictures = [tmp_path / "absent.png", broken, NAN] + [png] * 27
    images = image_table(30, png=pictures, n_pred=1, score=0.0, best_score=0.5)
    [group] = gallery_of(images)
    assert group.total == 30
    assert [case.row.Index for case in group.cases] == list(range(3, 3 + 2 * EXAMPLES))


def test_gallery_draws_the_most_confident_boxes(png):
    images = image_table(1, png=png, n_pred=25, score=0.0, width=NAN, height=NAN)
    boxes = np.arange(100.0).reshape(25, 4)
    scores = np.linspace(0.1, 0.9, 25)
    [group] = gallery_of(images, predicted=Boxes({"id00000": boxes}, {}, {"id00000": scores}))
    [case] = group.cases
    assert [mark.text for mark in case.predicted] == [f"{score:.2f}" for score in scores[:4:-1]]
    assert np.array_equal([mark.box for mark in case.predicted], boxes[:4:-1])
    size = (case.width, case.height)
    assert size == (256, 256), "of the picture, where the original size is not known"


def test_several_classes_have_names_and_colours_of_their_own(png):
    images = image_table(2, n_true=[2, 0], n_pred=[1, 0], score=[0.5, NAN], png=str(png))
    true = Boxes()
    true.put("id00000", [[0, 0, 9, 9], [20, 20, 40, 40]], [1, 0])
    predicted = Boxes()
    predicted.put("id00000", [[1, 0, 9, 9]], [1], [0.8])
    cases = {}
    for group in gallery_of(images, true, predicted, box_classes=["Mass", "Nodule"]):
        for case in group.cases:
            cases[case.row.image_id] = case
    nodule, mass = cases["id00000"].true
    [detected] = cases["id00000"].predicted
    assert [nodule.text, mass.text, detected.text] == ["Nodule", "Mass", "Nodule 0.80"]
    assert nodule.colour == detected.colour != mass.colour
    normal = cases["id00001"]
    assert normal.true == normal.predicted == [], "a normal image shows no box"


def test_words_of_a_crowded_picture_stay_inside_it_and_apart(png):
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 700, (20, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(20, 300, (20, 2))], axis=1)
    predicted = Boxes()
    predicted.put("id00000", boxes, generator.integers(0, 2, 20), np.linspace(0.9, 0.1, 20))
    true = Boxes()
    true.put("id00000", boxes[:3], [1, 0, 1])
    images = image_table(1, n_true=3, n_pred=20, score=0.5, png=png)
    groups = gallery_of(images, true, predicted, box_classes=["Consolidation", "Atelectasis"])
    [case] = groups[0].cases
    labels = [*case.true_labels, *case.predicted_labels]
    assert len(case.true_labels) == 3
    assert len(labels) > 15
    rectangles = []
    for label in labels:
        top = label.y - label.letters
        rectangles.append((label.x, top, label.x + label.width, label.y + 0.2 * label.letters))
    for x1, y1, x2, y2 in rectangles:
        assert x1 >= 0
        assert y1 >= 0
        assert x2 <= case.width
        assert y2 <= case.height
    for one, other in itertools.combinations(rectangles, 2):
        beside = one[2] <= other[0] or other[2] <= one[0]
        assert beside or one[3] <= other[1] or other[3] <= one[1]


def test_thumbnail_keeps_the_shape(tmp_path):
    path = tmp_path / "wide.png"
    cv2.imwrite(str(path), np.full((512, 1024), 200, np.uint8))
    assert make_thumbnail(path).shape == (176, 352)
    assert abs(int(make_thumbnail(str(path)).mean()) - 200) <= 1


# ---------------------------------------------------------------- the whole page


@pytest.fixture
def full(tmp_path, png):
    """A report in which nothing is missing."""
    images = image_table(
        8,
        png=png,
        sex=list("FMFMFMFM"),
        age=np.arange(20, 84, 8),
        view=["AP", "PA"] * 4,
        label=[0, 1] * 4,
        predicted=[0, 1, 1, 1] * 2,
        n_true=[1, 1, 0, 0] * 2,
        n_pred=[1, 0, 1, 0] * 2,
        score=[0.5, 0, 0, NAN] * 2,
    )
    true = Boxes()
    predicted = Boxes()
    for image_id in images["image_id"][::4]:
        true.put(image_id, [[100, 50, 300, 450]], [0])
        predicted.put(image_id, np.array([[110.0, 40, 310, 430]]), [0], np.array([0.625]))
    return report_input(
        images,
        title="Findings <b>&",
        baselines=[
            Baseline("Constant guess", 0.05, (0.04, 0.06)),
            Baseline("No gating", 0.2, None),
        ],
        sensitivity={"threshold": LINE},
        folds=[FoldResult(0, 0.3, {"threshold": 0.5}), FoldResult(1, 0.2, {})],
        true=true,
        predicted=predicted,
        precision_recall=PrecisionRecallCurve([0.1, 0.5], [1, 0.5]),
        froc=FrocCurve([0.1, 1], [0.3, 0.6]),
        class_names=["Normal", "Ill"],
        run=write_run(tmp_path / "run"),
        params={"threshold": 0.5},
        params_path="params.json",
        submission_path="submission.csv",
        warnings=["Look <out>"],
    )


@pytest.fixture
def full_page(full, tmp_path):
    return page_of(tmp_path / "run", full)


def test_the_page_stands_alone_and_its_links_lead_somewhere(full_page):
    assert not re.search(OUTSIDE, full_page)
    links = set(re.findall(r'href="#([\w-]+)"', full_page))
    anchors = set(re.findall(r'id="([\w-]+)"', full_page))
    assert links
    assert links <= anchors


def test_the_page_says_all_it_was_given(full_page):
    for words in (
        '<div class="score">0.250</div>',
        "0.200 to 0.300",
        "Not for diagnosis",
        "5.0 times",
        "Measured on other folds.",
        "2.9.0",
        "fold 0: 2026-01-01\nfold 1: 2026-01-02",
        "fold 0: 10\nfold 1: 11",
        "1 box marked, 0 predicted",
    ):
        assert words in full_page, words
    assert ">fold<" not in full_page.split("Settings")[1]


def test_texts_are_escaped(full_page):
    assert "Findings &lt;b&gt;&amp;" in full_page
    assert "Look &lt;out&gt;" in full_page
    assert "<b>&" not in full_page


def test_boxes_are_drawn_in_original_pixels(full_page):
    for words in (
        'viewBox="0 0 1000.0 800.0"',
        '<rect x="100.0" y="50.0" width="200.0" height="400.0"/>',
        '<rect x="110.0" y="40.0" width="200.0" height="390.0" stroke="#ffa028"',
        ">0.62</text>",
    ):
        assert words in full_page, words


def test_every_figure_has_a_caption_and_pictures_lie_beside_the_page(full, full_page):
    figures = re.findall(r"<figure>.*?</figure>", full_page, re.S)
    # Curves, sensitivity, detection, examples; one image can be in two groups.
    assert len(figures) == 4 + 1 + 2 + 12
    assert all("<figcaption>" in figure for figure in figures)
    for name in PICTURES:
        assert min(cv2.imread(str(full.run.path / f"{name}.png")).shape[:2]) > 300
    assert not list(full.run.path.glob(".*tmp*"))


def test_the_same_input_gives_the_same_page(tmp_path):
    report = report_input(image_table(3), sensitivity={"threshold": LINE})
    first = write_report(tmp_path / "a.html", report).read_bytes()
    assert write_report(tmp_path / "b.html", report).read_bytes() == first


def test_pictures_of_an_earlier_report_do_not_stay(tmp_path):
    for name in PICTURES:
        (tmp_path / f"{name}.png").write_bytes(b"old")
    write_report(tmp_path / "report.html", report_input(image_table(3)))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


FEW_COLUMNS = ["image_id", "fold", "score", "n_true", "n_pred", "best_score"]
EDGES = {
    "single image": report_input(image_table(1, score=0.3, n_true=1, n_pred=1, sex="F", age=40)),
    "no image": report_input(image_table(0), score=NAN, interval=None),
    "nothing counts": report_input(image_table(5, sex="M"), score=0.0, interval=(NAN, NAN)),
    "no positives": report_input(
        image_table(5, n_pred=1, score=0.0),
        precision_recall=PrecisionRecallCurve([NAN] * 3, [0.0] * 3),
        froc=FrocCurve([0.1, 1], [NAN, NAN]),
    ),
    "no predictions": report_input(
        image_table(5, n_true=1, score=0.0),
        precision_recall=PrecisionRecallCurve([], []),
        froc=FrocCurve([], []),
    ),
    "few columns": report_input(image_table(5)[FEW_COLUMNS]),
    "one fold": report_input(
        image_table(5, fold=0), folds=[FoldResult(0, NAN, {"threshold": 0.5})]
    ),
    "sensitivity without scores": report_input(
        image_table(2), sensitivity={"a": SensitivityLine([1, 2], [NAN, NAN], None)}
    ),
    "numeric ids": report_input(image_table(3, image_id=[1, 2, 3])),
    "baseline of zero": report_input(
        image_table(3), baselines=[Baseline("Constant guess", 0.0, (0.0, 0.0))]
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_report_copes_with(name, tmp_path):
    page = page_of(tmp_path, EDGES[name])
    assert "Not for diagnosis" in page
    assert ">nan<" not in page
    assert "None" not in page


@pytest.mark.parametrize(
    "log",
    [None, "", "epoch,lr,metric\n1,0.1,\n", "epoch,train_loss\n1,0.5\n", "epoch,lr\n1,0\n2,0\n"],
)
def test_report_copes_with_poor_logs(log, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.fold(0).path.mkdir(parents=True)
    if log is not None:
        run.fold(0).log.write_text(log)
    page = page_of(tmp_path, report_input(image_table(2), run=run))
    assert ("Please note" in page) == (not log)


def test_thirty_thousand_images_stay_a_small_page(tmp_path, png):
    count = 30_000
    generator = np.random.default_rng(0)
    images = image_table(
        count,
        png=png,
        n_true=generator.integers(0, 2, count),
        n_pred=generator.integers(0, 2, count),
        sex="F",
        score=np.where(generator.random(count) < 0.7, NAN, generator.random(count)),
    )
    x, y = np.sort(generator.random((2, count)), axis=1)
    report = report_input(images, precision_recall=PrecisionRecallCurve(x, y), froc=FrocCurve(x, y))
    page = page_of(tmp_path, report)
    assert len(page.encode()) < 5e6
    assert "30,000" in page


def class_row(name, precision):
    return {
        "name": name,
        "images": 3,
        "boxes": 4,
        "ap": precision,
        "interval": (precision, precision),
        "recalls": np.array([precision] * 3),
        "avgrecall": precision,
        "threshold": 0.4,
        "f1": precision,
    }


def test_page_of_a_detector_with_classes(tmp_path):
    curve = ClassCurve(np.array([0.5, 1]), np.array([1, 0.5]), np.array([0, 0.1]))
    report = report_input(
        image_table(3),
        box_classes=["Mass", "Nodule"],
        class_rows=[class_row("Mass", 0.25), class_row("Nodule", NAN)],
        class_curves={"Mass": curve},
        searched="Each its own.",
        recalls={"at 0.05": 0.111, "at 0.1": None, "at 0.2": 0.222, "avgrecall": 0.1665},
    )
    page = page_of(tmp_path, report)
    assert "Each finding" in page
    assert "Each its own." not in page, "nothing was searched"
    assert re.search(r"Mass</th>.*?<b>0\.250</b>", page)
    assert re.search(r"Nodule</th>.*?<b>–</b>", page)
    means = re.search(r"mean</th>(.*?)</tr>", page)[1]
    numbers = re.findall(r"[\d.]{5}|–", means)
    assert numbers == ["0.250", "0.200", "0.300", "0.111", "–", "0.222", "0.167"]
    assert (tmp_path / "detection.png").stat().st_size
    assert not re.search(OUTSIDE, page)


@pytest.mark.parametrize(
    "folds, fit_on, words, absent",
    [
        (2, "folds", "gray triangles are the values chosen when one fold was left out", "half"),
        (1, "folds", "gray triangle is the value fitted on one half", "the other folds"),
        (2, "testlike", "fitted on the images that are like the test set", "one fold was left out"),
        (2, "published", "Nothing was fitted", "were fitted without its images"),
    ],
)
def test_the_page_says_how_parameters_were_fitted(folds, fit_on, words, absent, tmp_path):
    report = report_input(
        image_table(4),
        sensitivity={"threshold": LINE},
        folds=[FoldResult(fold, 0.2, {"threshold": 0.5}) for fold in range(folds)],
        fit_on=fit_on,
    )
    page = page_of(tmp_path, report)
    assert words in page
    assert absent not in page


def test_where_nothing_was_fitted_the_folds_say_nothing_of_parameters(tmp_path):
    report = report_input(image_table(4), folds=[FoldResult(0, 0.2, {}), FoldResult(1, 0.2, {})])
    page = page_of(tmp_path, report)
    assert "Look for folds far from the others" in page
    assert "fitted without its images" not in page


def test_figures_without_a_value_are_left_out_of_the_page(tmp_path):
    figures = {"sensitivity": 0.75, "specificity": NAN}
    page = page_of(tmp_path, report_input(image_table(3), figures=figures))
    assert "<b>0.750</b> sensitivity" in page
    assert "</b> specificity" not in page


def answered_images(png, scores=None, true=None):
    table = image_table(3, png=png)[["image_id", "width", "height", "png"]]
    predicted = Boxes()
    predicted.put("id00001", [[100, 50, 300, 450]], [0], [0.75])
    return AnsweredImages(table, true or Boxes(), predicted, scores or {})


def test_labelled_test_images_have_scores_and_pictures(tmp_path, png):
    true = Boxes()
    true.put("id00001", [[110, 50, 300, 450]], [0])
    true.put("id00002", [[0, 0, 30, 40]], [1])
    scores = {
        "score": 0.4321,
        "n_images": 3,
        "mean_recall": {"0.05": 0.11, "0.1": 0.22, "0.2": None},
        "avgrecall": 0.165,
        "ap": {"Mass": 0.4321, "Nodule": None},
    }
    report = report_input(
        image_table(2),
        box_classes=["Mass", "Nodule"],
        class_rows=[class_row("Mass", 0.25), class_row("Nodule", NAN)],
        recalls={"mean recall at 0.05 false boxes per image": 0.33},
        answered=answered_images(png, scores, true),
    )
    page = page_of(tmp_path, report)
    section = page.split('<section id="test">')[1].split("</section>")[0]
    for words in (
        "0.432",
        "0.110",
        "0.330",
        "avgrecall",
        "AP of Nodule",
        "2 of 3 images",
        "Mass 0.75",
    ):
        assert words in section, words
    assert "1 box marked, 1 predicted" in section
    assert "1 box marked, 0 predicted" in section
    assert 'href="#test"' in page
    assert (tmp_path / "gallery.png").exists()


def test_test_images_without_labels_have_pictures_and_no_scores(tmp_path, png):
    page = page_of(tmp_path, report_input(image_table(2), answered=answered_images(png)))
    section = page.split('<section id="test">')[1].split("</section>")[0]
    assert "What is marked in them is not known" in section
    assert "by the networks of all folds together" in section
    assert "1 of 3 images" in section
    assert "marked, 1 predicted" not in section


def test_test_images_of_one_fold_are_said_to_be_of_one_fold(tmp_path, png):
    answered = replace(answered_images(png), fold=2)
    page = page_of(tmp_path, report_input(image_table(2), answered=answered))
    assert "predicted by the networks of fold 2 alone" in page
    assert "all folds together" not in page


def test_without_test_predictions_there_is_no_such_section(tmp_path):
    assert 'id="test"' not in page_of(tmp_path, report_input(image_table(2)))


def test_a_mask_over_the_whole_chest_is_not_found():
    """Its Dice is above 0, since it lies upon what is marked, too."""
    images = image_table(3, n_true=1, n_pred=1, score=[0.2, 0.5, 0.8])
    assert list(image_outcomes(images)) == ["found"] * 3
    assert list(image_outcomes(images, hit_score=0.5)) == ["misplaced", "misplaced", "found"]


def test_masks_are_spoken_of_as_masks(tmp_path, png):
    images = image_table(2, n_true=[1, 1], n_pred=[1, 1], score=[0.3, 0.9], png=png, sex="F")
    report = report_input(images, finding=("region", "regions"), words=MASK_WORDS, hit_score=0.5)
    page = page_of(tmp_path, report)
    assert re.search(r"<b>1 <small>50%</small></b><span>Found: the predicted mask fits", page)
    assert re.search(r"<b>1 <small>50%</small></b><span>Poorly drawn", page)
    assert "1 region marked, 1 predicted" in page
    assert "missed or poorly drawn, of those with a finding" in page
    spoken = page.split("<main>")[1].split('<section id="detection">')[0]
    assert not re.search(r"\bbox(es)?\b", spoken)


def test_studies_are_not_said_to_have_a_marked_finding(tmp_path):
    images = image_table(3, n_true=[1, 1, 0], sex="F")
    page = page_of(tmp_path, report_input(images, words=STUDY_WORDS))
    assert "<b>2</b> of studies that are not negative" in page
    assert "with a marked finding" not in page
    assert "called another class, of those negative" in page
