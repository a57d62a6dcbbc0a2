"""The second head through steps 03 to 06, and edge_predict.py on what they leave."""

import json

import numpy as np
import pytest
from candidates import read_candidates
from steps import link_tree, run_here

from cxr import open_run
from edge_predict import Predictor, read_xray

STEPS = ("03_train", "04_predict", "05_postprocess", "06_export")


@pytest.fixture(scope="module")
def fcos(pipeline, tmp_path_factory):
    """Folder of a run with --head fcos, on the pictures of the smallest demo."""
    working = tmp_path_factory.mktemp("fcos")
    link_tree(pipeline.task, working / "rsna", "tiny")
    flags = (*pipeline.flags, "--working", working, "--run", "fcos", "--head", "fcos")
    for step in STEPS:
        code, printed = run_here(step, *flags)
        assert code == 0, f"{step}:\n{printed}"
    return working / "rsna" / "fcos"


def test_the_steps_leave_what_they_promise(fcos):
    log = (fcos / "fold0" / "log.csv").read_text().splitlines()
    assert {"train_box", "train_centre", "valid_box", "valid_centre"} <= set(log[0].split(","))
    assert len(log) == 3
    results = json.loads((fcos / "results.json").read_text())
    assert 0 <= results["score"] <= 1
    assert (fcos / "submission.csv").exists()
    assert (fcos / "report.html").exists()


def test_exported_files_agree_with_pytorch_and_predict(fcos, pipeline):
    report = json.loads((fcos / "merged.json").read_text())
    assert report["settings"]["head"] == "fcos"
    assert report["parity"]["pixels"] < 0.1
    picture = read_xray(next(pipeline.source.glob("stage_2_test_images/*.dcm"))).picture
    boxes = Predictor(fcos / "merged.onnx")(picture)
    assert len(boxes["boxes"]) == len(boxes["scores"]) == len(boxes["kept"])
    assert boxes["category"].sum() == pytest.approx(1, abs=1e-4)


def test_another_head_is_not_merged_in(fcos, pipeline):
    link_tree(pipeline.run, fcos.parent / "tiny")
    flags = (*pipeline.flags, "--working", fcos.parents[1], "--run", "fcos", "--merge", "tiny")
    code, printed = run_here("04_predict", *flags, "--predictions", "both")
    assert code != 0
    assert "its head is retinanet and that of fcos fcos" in printed


def test_both_heads_blended(fcos, pipeline, tmp_path):
    """Steps 04 and 05, any X-rays and the library take a blend for a run like any other."""
    task = link_tree(fcos.parent, tmp_path / "working" / fcos.parent.name, "tiny")
    link_tree(pipeline.run, task / "tiny")
    flags = ("--demo", "--device", "cpu", "--workers", "0")
    flags = (*flags, "--input", pipeline.input, "--working", tmp_path / "working")
    blend = ("--blend", "fcos=0.6", "tiny=0.2", "--run", "both")
    code, printed = run_here("04_predict", *flags, *blend)
    assert code == 0, printed
    assert "A blend of the predictions of fcos (0.75), tiny (0.25)." in printed

    parts = [read_candidates(task / name / "test_predictions") for name in ("fcos", "tiny", "both")]
    for one, two, mixed in zip(*parts, strict=True):
        expected = 0.75 * one.category + 0.25 * two.category
        np.testing.assert_allclose(mixed.category, expected, rtol=1e-6)
        best = max(0.75 * one.score.max(initial=0), 0.25 * two.score.max(initial=0))
        assert mixed.score.max(initial=0) >= 0.999 * best

    code, printed = run_here("05_postprocess", *flags, "--run", "both")
    assert code == 0, printed
    report = (task / "both" / "report.html").read_text()
    assert "A blend of the predictions of fcos (0.75), tiny (0.25)." in report
    assert "no training log" not in report
    assert (task / "both" / "submission.csv").exists()

    image_id = parts[2][0].image_id
    pictures = pipeline.source / "stage_2_test_images"
    result = open_run(task / "both", device="cpu").predict(pictures / f"{image_id}.dcm")
    assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-4)
    known = parts[2][0].category
    assert list(result.probabilities.values()) == pytest.approx(known.tolist(), abs=0.02)

    code, printed = run_here("06_export", *flags, "--run", "both")
    assert code == 1
    assert "both is a blend and has no networks of its own: name one of its runs" in printed
    code, printed = run_here("03_train", *flags, *blend)
    assert code == 0
    assert "nothing is trained" in printed
