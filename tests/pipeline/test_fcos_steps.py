"""The second head through steps 03 to 06, and edge_predict.py on what they leave."""

import json

import pytest
from steps import link_tree, run_here

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
