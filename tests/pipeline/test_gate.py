"""A classifier's run as the gate of a detector's boxes: its folds, its answers anywhere."""

import numpy as np
import pandas as pd
import pytest
from steps import link_tree, run_here
from test_predictor import read_pictures
from tiny_task import TINY_TASK
from untrained import write_untrained_run
from xrays import png, xray

from cxr.data.predictions import write_part
from cxr.inference.gate import GatedNetworks, gate_of_test, out_of_fold_gate
from cxr.inference.predictor import Predictor
from cxr.methods.classifier.records import ClassPrediction
from cxr.run_folder import RunFolder, TaskFolder
from cxr.steps.export.archive import archive_run
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError
from cxr.tasks import TASKS

RSNA = TASKS["rsna"]


def write_classes(folder, table, right=0.9):
    """Probabilities of which that of the true class is `right`."""
    records = []
    for row in table.itertuples():
        category = np.full(3, (1 - right) / 2)
        category[max(row.label, 0)] = right
        records.append(ClassPrediction(row.image_id, 1024, 1024, category))
    write_part(folder, 0, records)


@pytest.fixture
def gated(pipeline, tmp_path):
    """The demo's smallest run, and a run `known` of rsna-classes that knows every class.

    working, boxes, classes (task folders), train (table), flags.
    """
    working = link_tree(pipeline.working, tmp_path / "working")
    boxes = TaskFolder(working / "rsna")
    classes = boxes.sibling("rsna-classes")
    classes.path.mkdir()
    for path in (boxes.table("train"), boxes.table("test"), boxes.preprocess_record):
        (classes.path / path.name).write_bytes(path.read_bytes())
    train = pd.read_csv(boxes.table("train"), dtype={"image_id": str})
    run = classes.run("known")
    for fold, rows in train.groupby("fold"):
        run.fold(fold).write_config({"task": "rsna-classes"})
        write_classes(run.fold(fold).valid_predictions("predictions"), rows)
    test = pd.read_csv(boxes.table("test"), dtype={"image_id": str})
    write_classes(run.test_predictions("predictions"), test)
    flags = (*pipeline.flags, "--working", working)
    return working, boxes, classes, train, flags


def test_step_05_searches_whose_classes_gate(gated):
    """The networks have learned nothing, so what it chooses is not looked at."""
    _, boxes, _, train, flags = gated
    code, printed = run_here("05_postprocess", *flags, "--gate", "known")
    assert code == 0, printed
    judged = boxes.run("tiny").judged()
    results = read_json(judged.results)
    assert "with the detector's own gate only" in results["baselines"]
    assert results["asked_for"]["gate"] == "known"
    write_json(judged.params, read_json(judged.params) | {"gate_run": "known"})
    with pytest.raises(InputError, match="needs the classes of known, too: run 05_postprocess"):
        archive_run(RSNA, RSNA.settings_of({"working": boxes.path.parent, "run": "tiny"}))

    gate = out_of_fold_gate(RSNA, boxes, "known", train)
    assert gate.categories.keys() == set(train["image_id"])
    for image_id, label in zip(train["image_id"], train["label"], strict=True):
        assert gate.categories[image_id].argmax() == label


def test_what_is_no_gate_is_refused(gated):
    _, boxes, classes, train, _ = gated
    with pytest.raises(InputError, match=r"--gate other: .* \(there are: known\)"):
        out_of_fold_gate(RSNA, boxes, "other", train)
    with pytest.raises(InputError, match=r"fold0/test_predictions has no classes of .* images"):
        gate_of_test(RSNA, boxes, "known", 0)

    record = read_json(classes.preprocess_record)
    write_json(classes.preprocess_record, record | {"size": 128})
    with pytest.raises(InputError, match=r"stored with 128 pixels and those of rsna with"):
        out_of_fold_gate(RSNA, boxes, "known", train)

    moved = train.assign(fold=1 - train["fold"])
    moved.to_csv(classes.table("train"), index=False)
    with pytest.raises(InputError, match=r"are not in the same fold in .*rsna-classes/train.csv"):
        out_of_fold_gate(RSNA, boxes, "known", train)


def test_pictures_are_gated_as_in_step_04(tiny_run, tmp_path, monkeypatch):
    """The detector sees 192 pixels and the classifier 64, each of the stored picture."""
    monkeypatch.setattr(type(TINY_TASK.dataset), "gate_task", "rsna-classes")
    working = link_tree(tiny_run.place.working, tmp_path / "working")
    classifier = write_untrained_run(working, "rsna-classes", run="known", size=64)
    settings = tiny_run.replace(working=working)
    params = RunFolder.of(settings.place).judged().params
    params.unlink()
    write_json(params, {"gate": True, "gate_by": "run", "gate_run": "known", "threshold": 0.1})

    predictor = Predictor(TINY_TASK, settings)
    assert isinstance(predictor.networks, GatedNetworks)
    assert predictor.sides == [64]
    assert "gate" in predictor.record()
    assert "gated by" in predictor.describe()
    scan = png(tmp_path / "a.png", xray())
    [picture] = read_pictures(predictor, [scan])
    [candidates] = predictor.networks.predict([picture])
    alone = Predictor(TASKS["rsna-classes"], classifier)
    [expected] = alone.networks.predict(read_pictures(alone, [scan]))
    np.testing.assert_allclose(candidates.gate_category, expected.category, atol=1e-6)

    other = Predictor(TINY_TASK, settings.replace(engine="auto"))
    assert other.networks.classifier.settings.machine.engine == "auto", "as the detector's"

    [result] = predictor.predict([picture])
    gate = candidates.gate_category @ (0, 0.1, 1)
    best = candidates.score.max()
    assert result.detections.scores[0] == pytest.approx(np.sqrt(best * gate), rel=1e-5)
