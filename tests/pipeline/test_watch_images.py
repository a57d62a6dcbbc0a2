"""Step 04 with --watch: files that arrive, half of them copied, and Ctrl-C."""

import json
import os

import pandas as pd
import pytest
from test_images import make_dataset, save
from tiny_task import TINY_TASK
from xrays import png, xray

from cxr.images.arrivals import FIRST_PAUSE
from cxr.steps.predict import watch_images as flow
from cxr.steps.predict.predict_images import predict_images
from cxr.steps.predict.watch_images import watch_images
from cxr.system.errors import InputError


class Clock:
    """Stands for the module time: what happens is done in the pauses between looks."""

    def __init__(self, happenings):
        self.now = 0.0
        self.happenings = iter(happenings)

    def monotonic(self):
        return self.now

    def strftime(self, form):
        return "12:00:00"

    def sleep(self, seconds):
        self.now += seconds
        next(self.happenings)(self)


def stop(clock):
    raise KeyboardInterrupt


def nothing(clock):
    pass


@pytest.fixture
def settings(tiny_run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return tiny_run.replace(out=tmp_path / "out", images=(str(folder),), watch=True)


@pytest.fixture
def folder(settings, tmp_path):
    return tmp_path / "in"


def watch(settings, monkeypatch, *happenings):
    monkeypatch.setattr(flow, "time", Clock([*happenings, stop]))
    return watch_images(TINY_TASK, settings)


def read_tables(settings):
    """Names in predictions.json and in failed.csv."""
    out = settings.images.out
    images = json.loads((out / "predictions.json").read_text())["images"]
    failed = pd.read_csv(out / "failed.csv")
    return {image["image"] for image in images}, set(failed["image"])


def test_files_that_arrive(settings, folder, monkeypatch, capsys):
    """A copy that stands still is in failed.csv until it goes on."""
    whole = png(folder / "later.png", xray(seed=3)).read_bytes()
    (folder / "later.png").unlink()
    seen = []

    def first(clock):
        png(folder / "first.png", xray())
        (folder / "late.png").write_bytes(whole[: len(whole) // 2])

    def look_at_tables(clock):
        seen.append(read_tables(settings))

    def more_of_it(clock):
        (folder / "late.png").write_bytes(whole)

    page = watch(
        settings,
        monkeypatch,
        *(first, nothing, nothing, look_at_tables),
        *(more_of_it, look_at_tables, look_at_tables),
    )
    assert seen[0] == ({"first.png"}, {"late.png"})
    assert seen[1] == ({"first.png"}, set())  # it has changed, and nobody knows yet
    assert seen[2] == ({"first.png", "late.png"}, set())
    assert "late.png" in page.read_text()
    printed = capsys.readouterr().out
    assert "2 new files of 2, 1 things failed" in printed
    assert "stopped by Ctrl-C: the same command goes on" in printed

    # A plain run finds everything done, and so does another watch.
    predict_images(TINY_TASK, settings.replace(watch=False))
    assert "2 images, 2 of them done before" in capsys.readouterr().out
    watch(settings, monkeypatch, nothing, nothing)
    assert "0 new files of 2" in capsys.readouterr().out


def test_a_copy_that_looks_complete(settings, folder, monkeypatch):
    """Some programs reserve the size at once; the content comes without a sign of it."""
    path = png(folder / "a.png", xray())
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    state = path.stat()
    seen = []

    def fill(clock):
        seen.append(read_tables(settings))
        path.write_bytes(content)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        clock.now += FIRST_PAUSE

    watch(settings, monkeypatch, nothing, nothing, fill, nothing)
    assert seen == [(set(), {"a.png"})]
    assert read_tables(settings) == ({"a.png"}, set())


def test_ctrl_c_keeps_what_is_done(settings, folder, monkeypatch):
    for seed in range(3):
        png(folder / f"{seed}.png", xray(seed=seed))
    original = flow.predict_items

    def interrupted(predictor, items, settings):
        original(predictor, items[:2], settings)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(flow, "predict_items", interrupted)
        watch(settings, monkeypatch, nothing, nothing)
    assert read_tables(settings) == ({"0.png", "1.png"}, set())
    watch(settings, monkeypatch, nothing, nothing)
    assert len(read_tables(settings)[0]) == 3


def test_a_folder_that_is_away_for_a_while(settings, folder, monkeypatch, capsys):
    png(folder / "a.png", xray())

    def away(clock):
        folder.rename(folder.with_name("away"))

    def back(clock):
        folder.with_name("away").rename(folder)

    watch(settings, monkeypatch, nothing, away, nothing, back, nothing)
    assert capsys.readouterr().out.count("does not exist") == 1
    assert read_tables(settings)[0] == {"a.png"}


def test_refusals(settings, folder):
    with pytest.raises(InputError, match="gone does not exist"):
        watch_images(TINY_TASK, settings.replace(images=(str(folder / "gone"),)))
    words = "--dicom-seg writes masks, and the run .* gives boxes: leave it out"
    with pytest.raises(InputError, match=words):
        watch_images(TINY_TASK, settings.replace(dicom_seg=True))
    assert not settings.images.out.exists()


def test_a_file_that_changes_while_it_is_read(settings, folder, monkeypatch):
    """Its row in failed.csv stays until the next look, and no record says that it is done."""
    path = png(folder / "a.png", xray())
    original = flow.predict_items

    def changing(predictor, items, settings):
        path.write_bytes(path.read_bytes() + b"more")
        return original(predictor, items, settings)

    seen = []

    def look_at_tables(clock):
        seen.append(read_tables(settings))
        monkeypatch.setattr(flow, "predict_items", original)

    monkeypatch.setattr(flow, "predict_items", changing)
    watch(settings, monkeypatch, nothing, look_at_tables, nothing, nothing)
    assert seen == [(set(), {"a.png"})]
    assert read_tables(settings) == ({"a.png"}, set())


def test_objects_that_are_asked_for_later(settings, folder):
    """Done images get what they lack and keep what they have."""
    tags = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.4.5"}
    save(folder / "a.dcm", make_dataset(xray(), **tags))
    png(folder / "b.png", xray())
    out = settings.images.out
    once = settings.replace(watch=False)
    predict_images(TINY_TASK, once.replace(dicom_sr=True))
    report = out / "structured_reports" / "a.dcm.dcm"
    before = report.read_bytes()
    predict_images(TINY_TASK, once.replace(dicom_pr=True, dicom_sc=True))
    assert report.read_bytes() == before
    assert (out / "presentation_states" / "a.dcm.dcm").is_file()
    assert (out / "secondary_captures" / "a.dcm.dcm").is_file()
    images = json.loads((out / "predictions.json").read_text())["images"]
    first = images[0]
    assert first["structured_report"] == "structured_reports/a.dcm.dcm"
    assert first["presentation_state"] == "presentation_states/a.dcm.dcm"
    assert first["segmentation"] is None
    failed = pd.read_csv(out / "failed.csv")
    assert failed[["image", "what", "reason"]].values.tolist() == [
        ["b.png", "presentation state", "not a DICOM"],
        ["b.png", "secondary capture", "not a DICOM"],
    ]
