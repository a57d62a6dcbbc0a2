"""compare.html: several runs side by side."""

import json
import re

import cv2
import pytest
from reports import OUTSIDE, write_run

from cxr.run_folder import RunFolder, TaskFolder
from cxr.steps.postprocess.compare import (
    compare_runs,
    differing_settings,
    distinct_names,
    find_runs,
)
from cxr.system.errors import InputError
from cxr.tasks import TASKS

TASK = TASKS["rsna"]


def read_page(path):
    return path.read_text(encoding="utf-8")


def untrained_run(folder, results=None):
    """A run that has begun training and has no log yet."""
    run = RunFolder(folder)
    run.fold(0).path.mkdir(parents=True)
    run.fold(0).config.write_text("{}")
    if results is not None:
        run.judged().results.write_text(json.dumps(results))
    return run


def test_scores_curves_and_differing_settings(tmp_path):
    small = write_run(tmp_path / "small", metric=0.3)
    big = write_run(tmp_path / "big", folds=(0,), epochs=1, encoder="dpn92")
    empty = RunFolder(tmp_path / "empty")
    empty.path.mkdir()
    small.judged().results.write_text(
        json.dumps({"score": 0.321, "interval": [0.3, 0.35], "n_images": 600})
    )
    page = read_page(compare_runs(TASK, [small, big, empty], tmp_path / "compare.html"))
    assert "0.321" in page
    assert page.count("not scored yet") == 2
    assert "Not for diagnosis" in page
    assert not re.search(OUTSIDE, page)
    assert min(cv2.imread(str(tmp_path / "compare.png")).shape[:2]) > 300

    settings = differing_settings(TASK, {"small": small, "big": big, "empty": empty})
    assert settings.columns == ["encoder"]
    assert settings.rows["big"]["encoder"] == "dpn92"
    assert settings.rows["empty"] == {}


def test_average_precision_of_each_class_and_the_leaderboard(tmp_path):
    results = {
        "a": {"score": 0.5, "ap": {"typical": 0.71, "opacity": None}, "leaderboard": 0.613},
        "b": {"score": 0.4, "ap": {"typical": 0.62, "atypical": 0.13}},
        "c": {"score": 0.3},
    }
    runs = [untrained_run(tmp_path / name, content) for name, content in results.items()]
    page = read_page(compare_runs(TASK, runs, tmp_path / "compare.html"))
    for words in ("leaderboard", "AP<br>typical", "AP<br>opacity", "AP<br>atypical"):
        assert words in page, words
    cells = re.sub(r"<[^>]+>", " ", page.split("AP<br>atypical")[1]).split()
    assert cells[:6] == ["a", "0.500", "0.613", "0.710", "–", "–"]
    assert cells[6:12] == ["b", "0.400", "–", "0.620", "–", "0.130"]

    page = read_page(compare_runs(TASK, runs[2:], tmp_path / "compare.html"))
    assert "leaderboard" not in page
    assert "AP<br>" not in page


def test_runs_by_name_and_all_of_them(tmp_path):
    task = TaskFolder(tmp_path)
    with pytest.raises(InputError, match="holds no run: train one"):
        find_runs(task, ("all",))
    for name in ("b", "a", "c"):
        untrained_run(tmp_path / name)
    task.images.mkdir()
    assert [run.name for run in find_runs(task, ("all",))] == ["a", "b", "c"]
    assert [run.path for run in find_runs(task, ("b", "x"))] == [tmp_path / "b", tmp_path / "x"]


def test_a_run_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        compare_runs(TASK, [RunFolder(tmp_path / "nowhere")], tmp_path / "compare.html")
    assert not list(tmp_path.iterdir())


def test_null_scores_and_no_logs(tmp_path):
    run = RunFolder(tmp_path / "a")
    run.path.mkdir()
    run.judged().results.write_text('{"score": null, "interval": [null, null]}')
    page = read_page(compare_runs(TASK, [run], tmp_path / "compare.html"))
    assert "not scored yet" in page
    assert not (tmp_path / "compare.png").exists()


def test_runs_of_one_name_are_told_apart(tmp_path):
    paths = [tmp_path / "rsna" / "small", tmp_path / "covid" / "small"]
    names = [name.replace("\\", "/") for name in distinct_names(paths)]
    assert names == ["rsna/small", "covid/small"]
    assert distinct_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]


def write_results(run, **results):
    run.judged().results.write_text(json.dumps(results))
    return run


def test_runs_judged_on_different_images_are_named(tmp_path):
    runs = [
        write_results(write_run(tmp_path / name), score=0.3, **judged)
        for name, judged in {
            "all": {"n_images": 1600, "judged_images": "aa", "folds": [0, 1, 2, 3]},
            "part": {"n_images": 400, "judged_images": "bb", "folds": [0]},
            "same": {"n_images": 1600, "judged_images": "aa", "folds": [0, 1, 2, 3]},
            "other": {"n_images": 1600, "judged_images": "cc", "folds": [0, 1, 2, 3]},
        }.items()
    ]
    every, part, same, other = runs
    path = tmp_path / "compare.html"
    page = read_page(compare_runs(TASK, [every, part], path))
    assert "judged on different images" in page
    assert "all on 1,600 images of the folds 0, 1, 2, 3; part on 400 images of the folds 0" in page
    assert "judged on different images" in read_page(compare_runs(TASK, [every, other], path))
    assert "judged on different images" not in read_page(compare_runs(TASK, [every, same], path))


def test_an_older_run_that_does_not_say_its_images_is_compared_by_their_number(tmp_path):
    old = write_results(write_run(tmp_path / "old"), score=0.3, n_images=600)
    new = write_results(write_run(tmp_path / "new"), score=0.3, n_images=600, judged_images="aa")
    page = read_page(compare_runs(TASK, [old, new], tmp_path / "compare.html"))
    assert "judged on different images" not in page


def test_the_box_loss_stands_in_the_table_where_it_is_logged(tmp_path):
    run = write_run(tmp_path / "boxes")
    page = read_page(compare_runs(TASK, [run], tmp_path / "compare.html"))
    assert "box loss</th>" in page
    assert '<td class="num">0.200</td>' in page, "0.6 / 3 in the last of three epochs"
    log = run.fold(0).log
    log.write_text("epoch,valid_loss\n1,0.5\n")
    run.fold(1).log.write_text("epoch,valid_loss\n1,0.5\n")
    page = read_page(compare_runs(TASK, [run], tmp_path / "compare.html"))
    assert "box loss</th>" not in page
