"""model_card.md: every number is the run's own, whatever is known of it."""

import re

import numpy as np
import pandas as pd
from reports import NAN, image_table, report_input, write_run

from cxr.data.predictions import record_path
from cxr.inference.checkpoint import checkpoint_fingerprint, save_state
from cxr.methods.evaluation import Baseline, FoldResult
from cxr.metrics.bootstrap import bootstrap_interval
from cxr.steps.postprocess.model_card import CardInput, write_model_card
from cxr.steps.postprocess.report_tables import patients_of
from cxr.system.disk import sha256_of, write_json
from cxr.tasks import TASKS


def card_of(folder, images, task_name="rsna", config=None, **fields):
    """The text of the card of a made-up run of two folds."""
    task = TASKS[task_name]
    settings = task.settings_of({"run": "tiny", "working": folder, "preset": "small"})
    run_folder = folder / task_name / "tiny"
    run = write_run(run_folder, **{"task": task_name, "lr": 4e-4, **(config or {})})
    usual = {"folds": [FoldResult(0, 0.2, {}), FoldResult(1, 0.3, {})], "run": run}
    report = report_input(images, **(usual | fields))
    learned = pd.DataFrame(
        {"image_id": images["image_id"], "group": images["group"], "fold": images["fold"]}
    )
    card = CardInput(report, task, settings, run, learned)
    return write_model_card(run.path / "model_card.md", card).read_text(encoding="utf-8")


def table_rows(text, title):
    """Cells of the rows below a heading."""
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_groups_have_the_scores_of_their_images(tmp_path):
    score = np.where(np.arange(50) % 3, 0.0, 1.0)
    images = image_table(
        50,
        sex=["F"] * 30 + ["M"] * 19 + [""],
        score=score,
        group=[f"p{number // 2}" for number in range(50)],
        fold=np.arange(50) % 2,
        n_true=1,
    )
    text = card_of(tmp_path, images)
    low, high = bootstrap_interval(score[:30], patients_of(images)[:30])
    rows = table_rows(text, "Groups of patients")
    assert rows[2:] == [["Sex", "Female", "30", "30", "0.333", f"{low:.3f} to {high:.3f}"]]
    assert "(images): sex Male (19); sex not stated (1)." in text
    assert "Not recorded for these images: age, view." in text
    assert "50 of 25 patients" in text
    assert "50 images of folds 0 and 1, 50 of them with a marked finding" in text


def test_it_says_what_the_report_says(tmp_path):
    text = card_of(
        tmp_path,
        image_table(8, score=0.5),
        score=0.254,
        interval=(0.206, 0.302),
        baselines=[Baseline("constant | guess", 0.037, None)],
        params={"threshold": 0.6, "gate": True, "shrink": NAN},
        warnings=["Only 2 of 4 folds are judged."],
        config={"lr": 0.125, "weights": "none", "start": "/home/someone/epoch001.pt"},
    )
    assert "\nMeasured on other folds.\n" in text
    assert "| **this run** | **0.254** | 0.206 to 0.302 |" in text
    assert "| constant \\| guess | 0.037 | – |" in text
    assert ["threshold", "0.6"] in table_rows(text, "Thresholds")
    assert "They were fitted on all judged images" in text
    assert "measured with parameters fitted on the other folds" in text
    assert "* Only 2 of 4 folds are judged." in text
    assert "competitions/rsna-pneumonia-detection-challenge" in text
    assert ["`--lr`", "0.125", "0.0004"] in table_rows(text, "Recipe")
    assert "those of epoch001.pt (--start)" in text
    assert "/home/" not in text
    assert "the scores are flattered" in text
    assert ["torch", "2.9.0"] in table_rows(text, "Versions")
    assert not re.search(r"\bnan\b|None", text)


def test_networks_are_those_of_the_predictions(tmp_path):
    task = TASKS["rsna"]
    settings = task.settings_of({"run": "tiny", "working": tmp_path, "preset": "small"})
    run = write_run(tmp_path / "rsna" / "tiny", folds=(0,), task="rsna")
    fold = run.fold(0)
    for number in (1, 2):
        save_state(fold.epoch(number), {"epoch": number})
    fingerprint = checkpoint_fingerprint(fold.epoch(2))
    record = {"fold0/epoch002.pt": fingerprint, "fold0/epoch001.pt": 5, "../gone/a.pt": 1}
    write_json(record_path(fold.valid_predictions("predictions")), {"checkpoints": record})

    images = image_table(4, fold=0)
    report = report_input(images, run=run, folds=[FoldResult(0, 0.2, {})])
    card = CardInput(report, task, settings, run, images)
    text = write_model_card(run.judged().model_card, card).read_text(encoding="utf-8")
    assert f"| `fold0/epoch002.pt` | `{sha256_of(fold.epoch(2))}` |" in text
    assert "| `fold0/epoch001.pt` | `changed since the predictions were made` |" in text
    assert "| `../gone/a.pt` | `no longer there` |" in text


def test_drawn_images_are_nobodys(tmp_path):
    text = card_of(tmp_path, image_table(4), "covid", {"demo": True}, class_names=["A", "B"])
    assert "**Made from drawn X-rays.**" in text
    assert "nobody's data" in text
    assert "kaggle.com" not in text
    assert "It says how likely each class of a chest X-ray is: A, B." in text


def test_every_data_set_states_its_terms():
    for task in TASKS.values():
        assert task.dataset.terms.endswith(".")
        assert "\n" not in task.dataset.terms
