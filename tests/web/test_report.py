import json
import re

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cxr.methods.evaluation import Boxes
from cxr.plots.curves import (
    comparison_panels,
    curve_panels,
    detection_panels,
    fold_mean,
    recall_at,
    sensitivity_panels,
    terms,
)
from cxr.steps.postprocess.cases import EXAMPLES, gallery, outcomes, thumbnail
from cxr.steps.postprocess.compare import compare, differing_settings, distinct_names, run_folders
from cxr.steps.postprocess.report import (
    ReportInput,
    bar,
    confusion,
    number,
    scale,
    share,
    subgroups,
    write_report,
)
from cxr.steps.postprocess.run_records import across_folds, read_fold_json, read_logs, text
from cxr.system.disk import InputError

NAN = float("nan")
OUTSIDE = r"""(?:src|href)=["'](?!data:|#)|url\(|@import|<script"""  # a page with it is not self-contained


def table(n, **columns):
    """A table of n images without findings, on which nothing was predicted, except for the columns given."""
    base = {
        "image_id": [f"id{i:05d}" for i in range(n)],
        "fold": np.arange(n) % 4,
        "score": NAN,
        "n_true": 0,
        "n_pred": 0,
        "best_score": 0.0,
        "age": NAN,
        "sex": NAN,
        "view": NAN,
        "label": NAN,
        "predicted": NAN,
        "png": NAN,
        "width": 1000,
        "height": 800,
        "group": NAN,
    }
    return pd.DataFrame(base | columns)


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.tile(np.arange(256, dtype=np.uint8), (256, 1)))
    return path


def report_input(images, **more):
    content = dict(
        title="Chest findings",
        score_name="Mean precision",
        score=0.25,
        interval=(0.2, 0.3),
        n_images=len(images),
        n_counted=int(images.score.notna().sum()),
        how="Measured on other folds.",
        images=images,
    )
    return ReportInput(**(content | more))


def write_run(folder, folds=(0, 1), epochs=3, metric=0.2, **config):
    for fold in folds:
        place = folder / f"fold{fold}"
        place.mkdir(parents=True)
        epoch = np.arange(1, epochs + 1)
        pd.DataFrame(
            {
                "epoch": epoch,
                "lr": 1e-3,
                "train_loss": 1 / epoch,
                "valid_loss": 1.2 / epoch,
                "train_box": 0.5 / epoch,
                "valid_box": 0.6 / epoch,
                "metric": metric * epoch / epochs,
                "seconds": 10.0 + fold,
            }
        ).to_csv(place / "log.csv", index=False)
        (place / "config.json").write_text(
            json.dumps({"fold": fold, "encoder": "resnet18", "lr": 1e-3} | config)
        )
        manifest = {"python": "3.11.9", "torch": "2.9.0", "date": f"2026-01-0{fold + 1}"}
        (place / "manifest.json").write_text(json.dumps(manifest))
    return folder


def drawn(panel):
    axis = Figure().add_subplot()
    panel.fill(axis)
    return axis


def test_every_image_has_the_outcome_a_person_would_give_it():
    images = table(
        6,
        n_true=[1, 1, 1, 0, 0, 2],
        n_pred=[1, 2, 0, 1, 0, 1],
        score=[0.5, 0.0, 0.0, 0.0, NAN, NAN],
    )
    assert list(outcomes(images)) == ["found", "misplaced", "missed", "alarm", "empty", "misplaced"]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 0.4, NAN])),
        max_size=30,
    )
)
@settings(max_examples=50, deadline=None)
def test_outcomes_agree_with_the_counts(rows):
    n_true, n_pred, score = zip(*rows) if rows else ((), (), ())
    n_true, n_pred = np.array(n_true, int), np.array(n_pred, int)
    kinds = outcomes(table(len(rows), n_true=n_true, n_pred=n_pred, score=np.array(score, float)))
    assert (kinds.isin(["alarm", "empty"]).to_numpy() == (n_true == 0)).all()
    assert (kinds.isin(["missed", "empty"]).to_numpy() == (n_pred == 0)).all()


def test_subgroups_by_hand():
    images = table(
        14,
        sex=["F"] * 12 + ["M", ""],
        score=[1.0, 0.5] + [0.0] * 8 + [NAN, NAN, 0.25, NAN],
        n_true=[1, 1, 1] + [0] * 9 + [1, 0],
        n_pred=[1, 1, 0] + [1] * 7 + [0, 0, 1, 0],
        age=[17, 18] + [NAN] * 12,
    )
    (sex, rows), (age, ages) = subgroups(images)
    assert (sex, age) == ("Sex", "Age")  # the view is not recorded
    female, male, unknown = rows
    assert [row["label"] for row in rows] == ["Female", "Male", "not stated"]
    assert (female["images"], female["counted"], female["marked"], female["missed"]) == (
        12,
        10,
        3,
        1,
    )
    assert (female["unmarked"], female["alarms"], female["few"]) == (9, 7, False)
    assert female["score"] == pytest.approx(0.15) and female["low"] <= 0.15 <= female["high"]
    assert male["score"] == 0.25 and np.isnan(male["low"]) and male["few"]
    assert np.isnan(unknown["score"]) and unknown["counted"] == 0
    assert [(row["label"], row["images"]) for row in ages] == [
        ("under 18", 1),
        ("18 to 39", 1),
        ("not stated", 12),
    ]


def test_subgroup_intervals_draw_patients_whole():
    scores = [1.0] * 20 + [0.0] * 20
    alone = table(40, sex="F", score=scores)
    together = alone.assign(group=["a"] * 20 + ["b"] * 20)
    (_, [free]), (_, [grouped]) = subgroups(alone)[0], subgroups(together)[0]
    assert (grouped["low"], grouped["high"]) == (0, 1)
    assert free["low"] > 0.2 and free["high"] < 0.8


def test_confusion_by_hand():
    images = table(6, label=[0, 0, 0, 1, 1, -1], predicted=[0, 0, 1, 1, 7, 0])
    assert confusion(images, ["A", "B", "C"]) == [
        ("A", 3, [(2, 2 / 3), (1, 1 / 3), (0, 0.0)]),
        ("B", 1, [(0, 0.0), (1, 1.0), (0, 0.0)]),
        ("C", 0, [(0, 0.0), (0, 0.0), (0, 0.0)]),
    ]
    assert confusion(table(3), ["A", "B"]) == [] == confusion(images, [])


def test_numbers_as_text():
    assert (number(0.12345), number(NAN), number(None)) == ("0.123", "–", "–")
    assert (share(1, 4), share(1, 1000), share(0, 5), share(0, 0)) == ("25%", "<1%", "0%", "–")
    assert (text(True), text(None), text(1e-5), text([1, 2]), text("a")) == (
        "yes",
        "–",
        "1e-05",
        "1, 2",
        "a",
    )


@pytest.mark.parametrize(
    "rows, highest",
    [
        ([bar("a", 0.25, (0.2, 0.31))], 0.31),
        ([bar("a", NAN)], 0.5),
        ([], 0.5),
        ([bar("a", 0.0)], 0.5),
        ([bar("a", 1.0)], 1.0),
    ],
)
def test_scale_begins_at_zero_and_holds_everything(rows, highest):
    top, ticks = scale(rows)
    assert ticks[0] == 0 and ticks[-1] == top >= highest and 3 <= len(ticks) <= 6


def test_detection_panels_draw_their_own_curves():
    precision, found = detection_panels(
        ([0.1, 0.9], [1.0, 0.3]), ([0.2, 4.0], [0.5, 0.8]), (0.9, 0.3, 4.0)
    )
    assert np.array_equal(drawn(precision).lines[0].get_xydata(), [[0.1, 1.0], [0.9, 0.3]])
    assert np.array_equal(drawn(precision).lines[1].get_xydata(), [[0.9, 0.3]])
    assert np.array_equal(drawn(found).lines[0].get_xydata(), [[0.2, 0.5], [4.0, 0.8]])
    assert np.array_equal(drawn(found).lines[1].get_xydata(), [[4.0, 0.9]])
    assert "50% of the marked findings at one false box in four images" in found.caption
    assert detection_panels(None, None) == detection_panels(([], []), ([1], [1])) == []
    assert detection_panels(([NAN, NAN], [0.1, 0.2]), None) == []


def test_long_curves_are_thinned_but_keep_their_ends():
    x = np.linspace(0, 1, 100_000)
    points = drawn(detection_panels((x, 1 - x), None)[0]).lines[0].get_xydata()
    assert len(points) == 800 and points[0].tolist() == [0, 1] and points[-1].tolist() == [1, 0]


def test_recall_at_a_rate_of_false_boxes():
    curve = ([0.1, 0.5, 0.5, 2.0], [0.2, 0.3, 0.4, 0.9])
    assert [recall_at(curve, rate) for rate in (0.05, 0.1, 0.5, 1.9, 8)] == [
        0.0,
        0.2,
        0.4,
        0.4,
        0.9,
    ]


def test_sensitivity_shares_one_scale_and_marks_the_chosen_value():
    panels = sensitivity_panels(
        {
            "threshold": ([0.9, 0.1, 0.5], [0.1, 0.0, 0.3], 0.5),
            "merge": (["nms", "wbf"], [0.3, 0.2], "wbf"),
            "gate": ([False, True], [0.1, 0.3], True),
            "nothing": ([], [], None),
        },
        [(0, 0.2, {"threshold": 0.4}), (1, 0.3, {"threshold": 0.9})],
    )
    assert [panel.title for panel in panels] == ["threshold: 0.5", "merge: wbf", "gate: yes"]
    assert (
        panels[0].caption == "From its worst to its best value the score goes from 0.000 to 0.300."
    )
    threshold, merge, gate = map(drawn, panels)
    assert threshold.get_ylim() == merge.get_ylim() == gate.get_ylim()
    line, _, chosen, folds = threshold.lines
    assert line.get_xdata().tolist() == [0.1, 0.5, 0.9] and line.get_ydata().tolist() == [
        0.0,
        0.3,
        0.1,
    ]
    assert chosen.get_xydata().tolist() == [[0.5, 0.3]]
    assert list(folds.get_xdata()) == [0.4, 0.9]
    assert merge.lines[-1].get_xydata().tolist() == [[1, 0.2]]
    assert [label.get_text() for label in gate.get_xticklabels()] == ["no", "yes"]


def test_scores_that_hardly_differ_are_not_blown_up():
    [panel] = sensitivity_panels({"scale": ([0.8, 0.9], [0.2500, 0.2501], 0.9)}, [])
    low, high = drawn(panel).get_ylim()
    assert high - low > 0.025


def test_curve_panels_follow_the_columns():
    logs = {
        0: pd.DataFrame(
            {
                "epoch": [1, 2, 3],
                "train_box": [3.0, 2, 1],
                "valid_box": [3.0, 2, 2.5],
                "metric": [0.1, 0.3, 0.2],
            }
        ),
        1: pd.DataFrame({"epoch": [1], "train_box": [3.0], "valid_mask": [1.0], "metric": [NAN]}),
    }
    assert terms(logs.values()) == ["box", "mask"]
    metric, box, mask = curve_panels(logs)
    assert (metric.title, box.title, mask.title) == ("Validation metric", "Box loss", "Mask loss")
    assert drawn(metric).lines[1].get_xydata().tolist() == [[2, 0.3]]  # the ring at the best epoch
    assert len(drawn(box).lines) == 3
    assert drawn(mask).lines[0].get_marker() == "o"  # one epoch would be an invisible line
    assert (
        curve_panels({}) == [] == curve_panels({0: pd.DataFrame({"epoch": [1.0], "metric": [NAN]})})
    )


def test_mean_over_folds_ends_where_the_shortest_ends():
    mean = fold_mean([pd.Series([1.0, 2, 3], index=[1, 2, 3]), pd.Series([3.0, 4], index=[1, 2])])
    assert mean.to_dict() == {1: 2.0, 2: 3.0}


def test_comparison_shows_each_fold_thin_and_the_mean_thick():
    log = pd.DataFrame({"epoch": [1, 2], "metric": [0.1, 0.2], "valid_loss": [2.0, 1.0]})
    metric, loss = comparison_panels({"a": {0: log, 1: log * 3}, "b": {0: log}, "c": {}})
    assert (metric.title, loss.title) == ("Validation metric", "Validation: total loss")
    assert sorted(line.get_linewidth() for line in drawn(loss).lines) == [0.7, 0.7, 2.2, 2.2]


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
    found, problems = read_logs(tmp_path)
    assert list(found) == [0, 10]
    assert found[0].epoch.tolist() == [1, 2] and found[0].metric.tolist()[1] == 0.3
    assert np.isnan(found[10].metric[0])
    assert [re.search(r"fold \d|Fold \d", problem)[0] for problem in problems] == [
        "fold 1",
        "fold 2",
        "Fold 3",
    ]


def test_settings_of_folds_are_merged_where_they_agree(tmp_path):
    assert across_folds(
        {0: {"a": 1, "v": {"torch": "2.9"}, "d": 3}, 1: {"a": 1, "v": {"torch": "2.8"}}}
    ) == {"a": "1", "v.torch": "fold 0: 2.9\nfold 1: 2.8", "d": "3"}
    (tmp_path / "fold0").mkdir()
    (tmp_path / "fold0" / "config.json").write_text("{")
    records, [problem] = read_fold_json(tmp_path, "config.json")
    assert records == {} and "config.json" in problem


def test_gallery_puts_the_telling_cases_first(png):
    images = table(
        8,
        png=png,
        n_true=[1, 1, 1, 1, 1, 0, 0, 0],
        n_pred=[1, 1, 1, 0, 0, 1, 1, 0],
        score=[0.4, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, NAN],
        best_score=[0.9, 0.5, 0.6, 0, 0, 0.2, 0.8, 0],
    )
    boxes = {"id00003": [[0, 0, 10, 10]], "id00004": [[0, 0, 20, 20]]}
    kinds = {
        title: [case.row.image_id[-1] for case in cases]
        for title, _, _, cases in gallery(report_input(images, true=Boxes(boxes)))
    }
    assert kinds == {
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
    images = table(
        30,
        png=[tmp_path / "absent.png", broken, NAN] + [png] * 27,
        n_pred=1,
        score=0.0,
        best_score=0.5,
    )
    [(_, _, number_of, cases)] = gallery(report_input(images))
    assert number_of == 30 and [case.row.Index for case in cases] == list(
        range(3, 3 + 2 * EXAMPLES)
    )


def test_gallery_draws_the_most_confident_boxes(png):
    images = table(1, png=png, n_pred=25, score=0.0, width=NAN, height=NAN)
    boxes, scores = np.arange(100.0).reshape(25, 4), np.linspace(0.1, 0.9, 25)
    [(*_, [case])] = gallery(
        report_input(images, predicted=Boxes({"id00000": boxes}, {}, {"id00000": scores}))
    )
    assert [mark.text for mark in case.predicted] == [f"{score:.2f}" for score in scores[:4:-1]]
    assert np.array_equal([mark.box for mark in case.predicted], boxes[:4:-1])
    assert (case.width, case.height) == (
        256,
        256,
    )  # of the picture, where the original size is not known


def test_thumbnail_keeps_the_shape(tmp_path):
    path = tmp_path / "wide.png"
    cv2.imwrite(str(path), np.full((512, 1024), 200, np.uint8))
    assert thumbnail(path).shape == (176, 352) and abs(int(thumbnail(str(path)).mean()) - 200) <= 1


@pytest.fixture
def full(tmp_path, png):
    images = table(
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
    boxes = {image_id: [[100, 50, 300, 450]] for image_id in images.image_id[::4]}
    return report_input(
        images,
        title="Findings <b>&",
        baselines=[("Constant guess", 0.05, (0.04, 0.06)), ("No gating", 0.2, None)],
        sensitivity={"threshold": ([0.1, 0.5], [0.1, 0.25], 0.5)},
        folds=[(0, 0.3, {"threshold": 0.5}), (1, 0.2, {})],
        true=Boxes(boxes),
        predicted=Boxes(
            {key: np.array([[110.0, 40, 310, 430]]) for key in boxes},
            {},
            {key: np.array([0.625]) for key in boxes},
        ),
        pr=([0.1, 0.5], [1, 0.5]),
        froc=([0.1, 1], [0.3, 0.6]),
        class_names=["Normal", "Ill"],
        runs=write_run(tmp_path / "run"),
        params={"threshold": 0.5},
        params_path="params.json",
        submission_path="submission.csv",
        warnings=["Look <out>"],
    )


def test_report_holds_everything_in_one_file(full, tmp_path):
    path = write_report(tmp_path / "run" / "report.html", full)
    page = path.read_text(encoding="utf-8")
    assert not re.search(OUTSIDE, page)
    links, anchors = (
        set(re.findall(r'href="#(\w+)"', page)),
        set(re.findall(r'id="([\w-]+)"', page)),
    )
    assert links and links <= anchors
    assert (
        '<div class="score">0.250</div>' in page
        and "0.200 to 0.300" in page
        and "Not for diagnosis" in page
    )
    assert "5.0 times" in page and "Measured on other folds." in page
    assert "Findings &lt;b&gt;&amp;" in page and "Look &lt;out&gt;" in page and "<b>&" not in page
    assert "2.9.0" in page and "fold 0: 2026-01-01\nfold 1: 2026-01-02" in page
    assert "fold 0: 10\nfold 1: 11" in page and "1 marked, 0 predicted" in page
    assert ">fold<" not in page.split("Settings")[1]
    assert 'viewBox="0 0 1000.0 800.0"' in page
    assert '<rect x="100.0" y="50.0" width="200.0" height="400.0"/>' in page  # original pixels
    assert (
        '<rect x="110.0" y="40.0" width="200.0" height="390.0" stroke="#ffa028"' in page
        and ">0.62</text>" in page
    )
    figures = re.findall(r"<figure>.*?</figure>", page, re.S)
    assert (
        len(figures) == 4 + 1 + 2 + 12
    )  # curves, sensitivity, detection, examples: one image can be of two kinds
    assert all("<figcaption>" in figure for figure in figures)
    for name in ("curves", "sensitivity", "detection", "gallery"):
        assert min(cv2.imread(str(path.with_name(f"{name}.png"))).shape[:2]) > 300
    assert not list(path.parent.glob(".*tmp*"))


def test_the_same_input_gives_the_same_page(tmp_path):
    report = report_input(table(3), sensitivity={"threshold": ([0.1, 0.5], [0.1, 0.25], 0.5)})
    first = write_report(tmp_path / "a.html", report).read_bytes()
    assert write_report(tmp_path / "b.html", report).read_bytes() == first


def test_pictures_of_an_earlier_report_do_not_stay(tmp_path):
    for name in ("curves", "sensitivity", "detection", "gallery"):
        (tmp_path / f"{name}.png").write_bytes(b"old")
    write_report(tmp_path / "report.html", report_input(table(3)))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


EDGES = {
    "single image": lambda: report_input(table(1, score=0.3, n_true=1, n_pred=1, sex="F", age=40)),
    "no image": lambda: report_input(table(0), score=NAN, interval=None),
    "nothing counts": lambda: report_input(table(5, sex="M"), score=0.0, interval=(NAN, NAN)),
    "no positives": lambda: report_input(
        table(5, n_pred=1, score=0.0), pr=([NAN] * 3, [0.0] * 3), froc=([0.1, 1], [NAN, NAN])
    ),
    "no predictions": lambda: report_input(
        table(5, n_true=1, score=0.0), pr=([], []), froc=([], [])
    ),
    "few columns": lambda: report_input(
        table(5)[["image_id", "fold", "score", "n_true", "n_pred", "best_score"]]
    ),
    "one fold": lambda: report_input(table(5, fold=0), folds=[(0, NAN, {"threshold": 0.5})]),
    "sensitivity without scores": lambda: report_input(
        table(2), sensitivity={"a": ([1, 2], [NAN, NAN], None)}
    ),
    "numeric ids": lambda: report_input(table(3, image_id=[1, 2, 3])),
    "baseline of zero": lambda: report_input(
        table(3), baselines=[("Constant guess", 0.0, (0.0, 0.0))]
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_report_copes_with(name, tmp_path):
    page = write_report(tmp_path / "report.html", EDGES[name]()).read_text(encoding="utf-8")
    assert "Not for diagnosis" in page and ">nan<" not in page and "None" not in page


@pytest.mark.parametrize(
    "log",
    [None, "", "epoch,lr,metric\n1,0.1,\n", "epoch,train_loss\n1,0.5\n", "epoch,lr\n1,0\n2,0\n"],
)
def test_report_copes_with_poor_logs(log, tmp_path):
    (tmp_path / "run" / "fold0").mkdir(parents=True)
    if log is not None:
        (tmp_path / "run" / "fold0" / "log.csv").write_text(log)
    report = report_input(table(2), runs=tmp_path / "run")
    page = write_report(tmp_path / "report.html", report).read_text(encoding="utf-8")
    assert ("Please note" in page) == (not log)


def test_thirty_thousand_images_stay_a_small_page(tmp_path, png):
    n, generator = 30_000, np.random.default_rng(0)
    images = table(
        n,
        png=png,
        n_true=generator.integers(0, 2, n),
        n_pred=generator.integers(0, 2, n),
        sex="F",
        score=np.where(generator.random(n) < 0.7, NAN, generator.random(n)),
    )
    curve = np.sort(generator.random((2, n)), axis=1)
    path = write_report(tmp_path / "report.html", report_input(images, pr=curve, froc=curve))
    assert path.stat().st_size < 5e6 and "30,000" in path.read_text(encoding="utf-8")


def test_compare_shows_scores_curves_and_differing_settings(tmp_path):
    first = write_run(tmp_path / "small", metric=0.3)
    second = write_run(tmp_path / "big", folds=(0,), epochs=1, encoder="dpn92")
    (tmp_path / "empty").mkdir()
    (first / "results.json").write_text(
        json.dumps({"score": 0.321, "interval": [0.3, 0.35], "n_images": 600})
    )
    path = compare([first, second, tmp_path / "empty"], tmp_path / "compare.html")
    page = path.read_text(encoding="utf-8")
    assert "0.321" in page and page.count("not scored yet") == 2 and "Not for diagnosis" in page
    assert min(cv2.imread(str(tmp_path / "compare.png")).shape[:2]) > 300
    columns, records = differing_settings(
        {"small": first, "big": second, "empty": tmp_path / "empty"}
    )
    assert (
        columns == ["encoder"] and records["big"]["encoder"] == "dpn92" and records["empty"] == {}
    )
    assert not re.search(OUTSIDE, page)


def test_compare_shows_the_ap_of_each_class_and_the_leaderboard(tmp_path):
    for name, results in {
        "a": {"score": 0.5, "ap": {"typical": 0.71, "opacity": None}, "leaderboard": 0.613},
        "b": {"score": 0.4, "ap": {"typical": 0.62, "atypical": 0.13}},
        "c": {"score": 0.3},
    }.items():
        (tmp_path / name / "fold0").mkdir(parents=True)
        (tmp_path / name / "fold0" / "config.json").write_text("{}")
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    (tmp_path / "images").mkdir()
    folders = run_folders(tmp_path, ("all",))
    assert [folder.name for folder in folders] == ["a", "b", "c"]
    assert run_folders(tmp_path, ("b", "x")) == [tmp_path / "b", tmp_path / "x"]
    page = compare(folders, tmp_path / "compare.html").read_text(encoding="utf-8")
    assert all(
        words in page
        for words in ("leaderboard", "AP<br>typical", "AP<br>opacity", "AP<br>atypical")
    )
    table = re.sub(r"<[^>]+>", " ", page.split("AP<br>atypical")[1]).split()
    assert table[:12] == [
        "a",
        "0.500",
        "0.613",
        "0.710",
        "–",
        "–",
        "b",
        "0.400",
        "–",
        "0.620",
        "–",
        "0.130",
    ]
    page = compare([tmp_path / "c"], tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "leaderboard" not in page and "AP<br>" not in page
    with pytest.raises(InputError, match="holds no run: train one"):
        run_folders(tmp_path / "images", ("all",))


def test_compare_refuses_a_run_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        compare([tmp_path / "nowhere"], tmp_path / "compare.html")
    assert not list(tmp_path.iterdir())


def test_compare_copes_with_null_scores_and_no_logs(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "results.json").write_text('{"score": null, "interval": [null, null]}')
    page = compare([tmp_path / "a"], tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "not scored yet" in page and not (tmp_path / "compare.png").exists()


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [tmp_path / "rsna" / "small", tmp_path / "covid" / "small"]
    assert [name.replace("\\", "/") for name in distinct_names(folders)] == [
        "rsna/small",
        "covid/small",
    ]
    assert distinct_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]


def test_several_classes_have_names_and_colours_of_their_own(png):
    images = table(2, n_true=[2, 0], n_pred=[1, 0], score=[0.5, NAN], png=str(png))
    true = Boxes(
        {"id00000": [[0, 0, 9, 9], [20, 20, 40, 40]]}, {"id00000": [1, 0]}, {"id00000": None}
    )
    predicted = Boxes({"id00000": [[1, 0, 9, 9]]}, {"id00000": [1]}, {"id00000": [0.8]})
    kinds = gallery(
        report_input(images, true=true, predicted=predicted, box_classes=["Mass", "Nodule"])
    )
    cases = {case.row.image_id: case for *_, shown in kinds for case in shown}
    marked, [found] = cases["id00000"].true, cases["id00000"].predicted
    assert [mark.text for mark in marked] == ["Nodule", "Mass"] and found.text == "Nodule 0.80"
    assert marked[0].colour == found.colour != marked[1].colour
    assert cases["id00001"].true == cases["id00001"].predicted == [], "a normal image shows no box"


def test_learning_curves_of_each_class():
    log = pd.DataFrame(
        {"epoch": [1, 2], "metric": [0.1, 0.2], "ap_Mass": [0.1, 0.3], "ap_Nodule": [NAN, NAN]}
    )
    titles = [panel.title for panel in curve_panels({0: log, 1: log})]
    assert titles == ["Validation metric", "AP: Mass"], "a class without any value has no diagram"
    assert [line.get_ydata().tolist() for line in drawn(curve_panels({0: log})[1]).lines] == [
        [0.1, 0.3]
    ]


def test_page_of_a_detector_with_classes(tmp_path):
    rows = [
        {
            "name": name,
            "images": 3,
            "boxes": 4,
            "ap": ap,
            "interval": (ap, ap),
            "recalls": np.array([ap] * 3),
            "avgrecall": ap,
            "threshold": 0.4,
            "f1": ap,
        }
        for name, ap in (("Mass", 0.25), ("Nodule", NAN))
    ]
    curves = {"Mass": (np.array([0.5, 1]), np.array([1, 0.5]), np.array([0, 0.1]))}
    write_report(
        tmp_path / "report.html",
        report_input(
            table(3),
            box_classes=["Mass", "Nodule"],
            class_rows=rows,
            class_curves=curves,
            searched="Each its own.",
        ),
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Each finding" in page and "Each its own." not in page  # nothing was searched
    assert re.search(r"Mass</th>.*?<b>0\.250</b>", page) and re.search(
        r"Nodule</th>.*?<b>–</b>", page
    )
    assert (tmp_path / "detection.png").stat().st_size and not re.search(OUTSIDE, page)
