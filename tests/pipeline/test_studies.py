"""Step 04 on images of a run whose classes are of studies: the images of a study are averaged."""

import json

import numpy as np
import pandas as pd
import pytest
from test_images import make_dataset, save
from untrained import write_untrained_run
from xrays import png, xray

from cxr.steps.predict.predict_images import predict_images
from cxr.steps.predict.studies import merge_studies
from cxr.tasks import TASKS


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """The folder --out of three DICOMs of two studies, one without a study, and a PNG."""
    folder = tmp_path_factory.mktemp("studies")
    settings = write_untrained_run(folder, "covid")
    scans = folder / "scans"
    scans.mkdir()
    for name, study in (("a", "1.2.10"), ("b", "1.2.9"), ("c", "1.2.10"), ("d", None)):
        dataset = make_dataset(xray(seed=ord(name)))
        if study:
            dataset.StudyInstanceUID = study
        save(scans / f"{name}.dcm", dataset)
    png(scans / "e.png", xray())
    out = folder / "out"
    predict_images(TASKS["covid"], settings.replace(images=(str(scans),), out=out))
    return out


def test_a_study_is_the_mean_of_its_images(predicted):
    content = json.loads((predicted / "predictions.json").read_text())
    probabilities = {}
    studies = {}
    for entry in content["images"]:
        probabilities[entry["image"]] = list(entry["probabilities"].values())
        studies[entry["image"]] = entry["study"]
    assert studies == {"a.dcm": "1.2.10", "b.dcm": "1.2.9", "c.dcm": "1.2.10"} | dict.fromkeys(
        ("d.dcm", "e.png"), ""
    )
    table = pd.read_csv(predicted / "studies.csv", dtype={"StudyInstanceUID": str})
    names = [f"probability of {name}" for name in content["image_classes"]]
    assert list(table.columns) == ["StudyInstanceUID", "images", *names]
    assert table["StudyInstanceUID"].tolist() == ["1.2.10", "1.2.9"]
    assert table["images"].tolist() == [2, 1]
    means = np.mean([probabilities["a.dcm"], probabilities["c.dcm"]], 0)
    assert table.loc[0, names].tolist() == pytest.approx(means.tolist(), abs=2e-6)
    assert table.loc[1, names].tolist() == pytest.approx(probabilities["b.dcm"], abs=2e-6)
    assert "2 images name no study" in content["notes"][0]


def test_the_index_shows_studies(predicted):
    page = (predicted / "index.html").read_text()
    assert page.count("Study of 2 images") == 2
    assert page.count("Study of 1 image<") == 1
    assert 'href="studies.csv"' in page


def test_no_study_at_all():
    assert merge_studies([{"study": "", "probabilities": {"x": 1.0}}], ["x"]) == {}
