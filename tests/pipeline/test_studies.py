"""A run whose classes are of studies: the images of a study are averaged, whoever asks."""

import json

import numpy as np
import pandas as pd
import pytest
from test_images import make_dataset, save
from untrained import write_untrained_run
from xrays import png, xray

from cxr.images.study import read_study
from cxr.inference.open_run import open_run
from cxr.inference.predictor import Predictor
from cxr.inference.studies import StudyImage, merge_studies
from cxr.run_folder import RunFolder
from cxr.steps.predict.predict_images import predict_images
from cxr.steps.predict.received import ReceivedImages
from cxr.system.errors import InputError
from cxr.tasks import TASKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds `scans`, and in time the run and `out`."""
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def settings(folder):
    return write_untrained_run(folder, "covid")


@pytest.fixture(scope="module")
def predicted(folder, settings):
    """The folder --out of three DICOMs of two studies, one without a study, and a PNG."""
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
    assert merge_studies([StudyImage("", {"x": 1.0})], ["x"]) == {}


def read_studies(out):
    """studies.csv by StudyInstanceUID."""
    return pd.read_csv(out / "studies.csv", dtype={"StudyInstanceUID": str}, index_col=0)


def test_an_open_run_says_the_same(folder, settings, predicted):
    run = open_run(RunFolder.of(settings.place).path, device="cpu", precision="fp32")
    names = ("a.dcm", "b.dcm", "c.dcm", "d.dcm", "e.png")
    results = run.predict([folder / "scans" / name for name in names])
    assert [result.study for result in results] == ["1.2.10", "1.2.9", "1.2.10", "", ""]
    studies = run.studies(results)
    assert [study.images for study in studies.values()] == [2, 1]
    for uid, row in read_studies(predicted).iterrows():
        probabilities = list(studies[uid].probabilities.values())
        assert probabilities == pytest.approx(row.tolist()[1:], abs=2e-6)


def test_other_runs_know_no_studies(tmp_path):
    settings = write_untrained_run(tmp_path, "own-classes", preset="auto", class_names=("a", "b"))
    run = open_run(RunFolder.of(settings.place).path, device="cpu", precision="fp32")
    path = tmp_path / "scan.dcm"
    save(path, make_dataset(xray()))
    result = run.predict(path)
    assert "study" not in result.to_dict()
    with pytest.raises(InputError, match="says nothing of studies"):
        run.studies([result])


def test_what_arrives_by_dicom_is_averaged(folder, settings, predicted):
    """The folder of the port has the same studies.csv."""
    predictor = Predictor(TASKS["covid"], settings)
    images = ReceivedImages(predictor, settings.replace(out=folder / "received").images)
    for name in "abcd":
        images.accept(f"1.3.{ord(name)}", (folder / "scans" / f"{name}.dcm").read_bytes())
        images.predict(images.paths.get())
    images.stop()
    pd.testing.assert_frame_equal(read_studies(folder / "received"), read_studies(predicted))
    content = json.loads((folder / "received" / "predictions.json").read_text())
    assert "1 images name no study" in content["notes"][-1]


def test_damaged_headers_name_no_study(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(bytes(128) + b"DICM" + bytes(7))
    assert read_study(path) == ""
