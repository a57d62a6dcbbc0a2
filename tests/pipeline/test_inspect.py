"""One image from the labels to the submission, in every frame."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from steps import ROOT

from cxr.data.dataset import read_png
from cxr.inspect import inspect_image
from cxr.system.errors import InputError
from cxr.tasks import TASKS

RSNA = TASKS["rsna"]


@pytest.fixture
def settings(pipeline):
    values = {"working": pipeline.working, "input": pipeline.input, "run": "tiny", "folds": 2}
    return RSNA.settings_of({"demo": True} | values)


def marked_image(pipeline):
    table = pd.read_csv(pipeline.task / "train.csv")
    return table[table["n_boxes"] > 0].iloc[0]


def test_a_box_in_every_frame(pipeline, settings, tmp_path):
    """Drawn X-rays have 1024 pixels, stored pictures 256, the demo's network sees 192."""
    row = marked_image(pipeline)
    stages = inspect_image(RSNA, settings, row["image_id"], tmp_path)
    original, stored, network = (stage.boxes for stage in stages[:3])
    assert [stage.frame.width for stage in stages[:3]] == [1024, 256, 192]
    assert np.allclose(stored, original / 4)
    assert np.allclose(network, original * 192 / 1024)
    assert f"{original.tolist()}" == row["boxes"]
    assert "kept by step 04" in stages[3].title
    assert "answer by params.json" in stages[4].title
    for name in ("original", "stored", "network"):
        assert (tmp_path / f"{row['image_id']}-{name}.png").exists()
    assert read_png(tmp_path / f"{row['image_id']}-original.png").shape == (1024, 1024)


def test_a_test_image_ends_with_its_row_of_the_submission(pipeline, settings, tmp_path, capsys):
    image_id = pd.read_csv(pipeline.task / "test.csv")["image_id"].iloc[0]
    inspect_image(RSNA, settings, image_id, tmp_path)
    assert f"submission.csv: {image_id} | " in capsys.readouterr().out


def test_before_training_the_trained_runs_are_named(pipeline, settings, tmp_path):
    image_id = marked_image(pipeline)["image_id"]
    with pytest.raises(InputError, match=r"none has no trained fold: choose --run \(here: .*tiny"):
        inspect_image(RSNA, settings.replace(run="none"), image_id, tmp_path)


def test_an_unknown_id_is_shown_how_ids_look(settings, tmp_path):
    with pytest.raises(InputError, match=r"abc is in neither train.csv nor test.csv"):
        inspect_image(RSNA, settings, "abc", tmp_path)


def test_the_command(pipeline, tmp_path):
    image_id = marked_image(pipeline)["image_id"]
    words = ["--demo", "--run", "tiny", "--working", str(pipeline.working)]
    command = [sys.executable, "-m", "cxr.inspect", image_id, *words, "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "1. labels, as in the table of step 02 [original, 1024 x 1024]" in ended.stdout
