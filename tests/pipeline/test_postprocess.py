"""Step 05 on variants of predictions, on one fold, and again with what an earlier one knew."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
from steps import DEMO, digest, link_tree, run_here


@pytest.fixture
def copy(pipeline, tmp_path):
    """A copy of the finished run, and the flags that continue it."""
    working = link_tree(pipeline.working, tmp_path / "working")
    flags = (*DEMO, "--input", pipeline.input, "--working", working)
    return SimpleNamespace(run=working / "rsna" / "tiny", flags=flags)


def finish(step, *flags):
    status, text = run_here(step, *flags)
    assert status == 0, text
    return text


def read_results(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_variant_keeps_its_own_results(copy):
    before = digest(copy.run)
    variant = ("--predictions", "plain", "--tta", "none")
    text = finish("04_predict", *copy.flags, *variant)
    assert "note: --tta none in place of the run's flip" in text
    text = finish("05_postprocess", *copy.flags, *variant)
    folder = copy.run / "judged_plain"
    for name in ("params.json", "results.json", "submission.csv", "report.html"):
        assert (folder / name).exists()
        assert digest(copy.run)[name] == before[name]
    assert str(folder / "submission.csv") in text


def test_one_fold_is_enough(copy):
    for name in ("fold1", "test_predictions"):
        for path in sorted((copy.run / name).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (copy.run / name).rmdir()
    (copy.run / "submission.csv").unlink()
    finish("04_predict", *copy.flags, "--fold", "0")
    finish("05_postprocess", *copy.flags, "--fold", "0")
    assert len(pd.read_csv(copy.run / "submission.csv")) == 24
    page = (copy.run / "report.html").read_text(encoding="utf-8")
    assert "The test images are answered by the networks of fold 0 alone." in page
    assert "Only 1 of 2 folds are judged" in page
    assert "fitted on the other folds" not in page
    assert read_results(copy.run)["folds"] == [0]


def test_what_an_earlier_step_knew(copy):
    finish("05_postprocess", *copy.flags, "--leaderboard", "0.25")
    assert read_results(copy.run)["leaderboard"] == 0.25
    finish("05_postprocess", *copy.flags)
    assert read_results(copy.run)["leaderboard"] == 0.25

    results = read_results(copy.run)
    results["asked_for"]["opacities"] = ["other"]
    (copy.run / "results.json").unlink()
    (copy.run / "results.json").write_text(json.dumps(results))
    text = finish("05_postprocess", *copy.flags)
    assert "note: the earlier results had --opacities other and these do not" in text
