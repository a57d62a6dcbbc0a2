"""Files of other people's predictions: submissions, COCO's results, and what is wrong with one."""

import json

import numpy as np
import pandas as pd
import pytest

from cxr.methods.base import ImageFacts, Labels
from cxr.system.errors import InputError
from cxr.tasks import TASKS

TABLE = pd.DataFrame({"image_id": ["a", "b"], "study_id": ["s", "t"]})


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def read(task, path):
    return TASKS[task].dataset.read_answers(path, TABLE)


def coco(path, *entries):
    keys = ("image_id", "category_id", "bbox", "score")
    content = [dict(zip(keys, entry, strict=True)) for entry in entries]
    return write(path, json.dumps(content))


def test_boxes_of_a_submission(tmp_path):
    rows = "patientId,PredictionString\na,0.5 10 20 30 40 0.9 1 2 3 4\nb,\n"
    answers = read("rsna", write(tmp_path / "a.csv", rows))
    assert answers["a"].boxes.tolist() == [[10, 20, 40, 60], [1, 2, 4, 6]]
    assert answers["a"].scores.tolist() == [0.5, 0.9]
    assert len(answers["b"]) == 0


def test_a_detectors_record_of_such_boxes(tmp_path):
    path = coco(tmp_path / "a.json", ("a", 1, [10, 20, 30, 40], 0.5), ("a", 1, [0, 0, 4, 6], 0.9))
    answer = read("rsna", path)["a"]
    labels = Labels(("Lung Opacity",), ("none", "other", "box"))
    record = TASKS["rsna"].method.from_answer(answer, ImageFacts("a", 100, 80), labels)
    assert record.score.tolist() == [0.9, 0.5]
    assert record.centre.tolist() == [[2, 3], [25, 40]]
    assert record.size20.tolist() == record.size80.tolist() == [[4, 6], [30, 40]]
    assert np.isnan(record.category).all()


def test_cocos_results_without_a_box_of_an_image(tmp_path):
    answers = read("vinbigdata", coco(tmp_path / "a.json", ("a", 3, [10, 20, 30, 40], 0.5)))
    assert answers["a"].labels.tolist() == [2]
    assert len(answers["b"]) == 0


@pytest.mark.parametrize(
    "entry, words",
    [
        (("a", 0, [1, 2, 3, 4], 0.5), "category_id outside 1 to 14"),
        (("a", 1, [1, 2, 3, 4], 1.5), "score outside 0 to 1"),
        (("c", 1, [1, 2, 3, 4], 0.5), "boxes of other images only, such as c"),
        (("a", 1, [1, 2, 3], 0.5), "no list of COCO results"),
    ],
)
def test_results_that_cannot_be_meant(tmp_path, entry, words):
    with pytest.raises(InputError, match=words):
        read("vinbigdata", coco(tmp_path / "a.json", entry))


def test_findings_of_a_submission(tmp_path):
    rows = "image_id,PredictionString\na,3 0.5 1 2 3 4\nb,14 1 0 0 1 1\n"
    answers = read("vinbigdata", write(tmp_path / "a.csv", rows))
    assert answers["a"].labels.tolist() == [3]
    assert len(answers["b"]) == 0


def test_masks_of_a_submission(tmp_path):
    """Run lengths of SIIM count from the last run's end, down the columns."""
    path = write(tmp_path / "a.csv", "ImageId,EncodedPixels\na,8 4\nb,-1\n")
    answers = read("pneumothorax", path)
    method = TASKS["pneumothorax"].method
    labels = Labels(("Pneumothorax",), ())
    facts = ImageFacts("a", 8, 8)
    record = method.from_answer(answers["a"], facts, labels)
    expected = np.zeros((8, 8), np.uint8)
    expected[:4, 1] = 255
    assert record.stored_picture().tolist() == expected.tolist()
    assert record.head == 1
    assert method.from_answer(answers["b"], facts, labels).head == 0


def test_opacities_and_studies_of_a_submission(tmp_path):
    studies = "negative 0.4 0 0 1 1 typical 0.3 0 0 1 1 indeterminate 0.2 0 0 1 1 "
    studies += "atypical 0.1 0 0 1 1"
    rows = f"id,PredictionString\ns_study,{studies}\na_image,opacity 0.5 1 2 3 4 none 0.1 0 0 1 1\n"
    path = write(tmp_path / "a.csv", rows)
    assert read("covid", path)["a"].tolist() == [0.4, 0.3, 0.2, 0.1]
    assert "b" not in read("covid", path)
    assert read("covid-boxes", path)["a"].boxes.tolist() == [[1, 2, 3, 4]]
    with pytest.raises(InputError, match="s_study: it does not have negative"):
        read("covid", write(tmp_path / "b.csv", "id,PredictionString\ns_study,none 1 0 0 1 1\n"))


def test_an_image_that_is_there_twice(tmp_path):
    rows = "patientId,PredictionString\na,\na,\n"
    with pytest.raises(InputError, match="has a twice: leave one of the rows out"):
        read("rsna", write(tmp_path / "a.csv", rows))


def test_answers_that_no_file_holds(tmp_path):
    with pytest.raises(InputError, match="answers of Lung fields are not read from files"):
        read("lungs", tmp_path / "a.csv")
