"""06_export.py: the ONNX files, that they are PyTorch's networks, and that their scores are measured honestly."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from exported import FLAGS, PARAMS
from steps import run_here

from cxr.data.dataset import read_png
from cxr.datasets.rsna.dataset import Rsna
from cxr.inference.run import VIEWS, batches, load_model, predict_batch
from cxr.methods.detector.records import detect_labelled
from cxr.steps.export.export import choose_checkpoints, deal_images, judge
from cxr.steps.export.onnx_files import last_convolutions, write_fp32
from cxr.system.disk import InputError, read_json, write_json
from cxr.tasks import TASKS
from edge_predict import Predictor, read_settings


def picture_of(exported, image_id):
    return read_png(exported.config.task_dir / "images" / f"{image_id}.png")


def by_step_04(exported, rows):
    """[(boxes, scores, labels)] of PyTorch with the last checkpoint of both folds and the mirrored view."""
    config = exported.config
    models = [load_model(Rsna(), config.fold_dir(fold) / "epoch002.pt", "cpu") for fold in (0, 1)]
    found = []
    for batch in batches(config, exported.table, rows, models[0], torch.device("cpu")):
        merged = predict_batch(Rsna(), models, VIEWS["flip"], batch["image"], "fp32")
        found += [
            detect_labelled(
                Rsna().candidates(one, exported.table.iloc[row], models[0], None),
                PARAMS,
                Rsna.gate_weights,
            )
            for row, one in zip(batch["index"].tolist(), merged)
        ]
    return found


@pytest.mark.parametrize("engine", ["onnxruntime", "opencv"])
def test_the_file_gives_the_boxes_of_pytorch(exported, engine):
    predict, rows = Predictor(exported.fp32, engine), range(4)
    total = 0
    for row, (boxes, scores, labels) in zip(rows, by_step_04(exported, rows), strict=True):
        facts = exported.table.iloc[row]
        found = predict(picture_of(exported, facts["image_id"]), (facts["width"], facts["height"]))
        kept = found["kept"]
        np.testing.assert_allclose(found["boxes"][kept], boxes, atol=0.5)
        np.testing.assert_allclose(found["scores"][kept], scores, atol=1e-3)
        np.testing.assert_array_equal(found["labels"][kept], labels)
        assert found["category"].sum() == pytest.approx(1, abs=1e-5)
        total += len(boxes)
    assert total > 8, "images without boxes prove nothing"


def test_parity_is_in_the_report(exported):
    assert (
        0 < exported.report["parity"]["pixels"] < 0.5
        and 0 < exported.report["parity"]["score"] < 1e-3
    )


def test_settings_are_read_without_onnx(exported):
    for path in (exported.fp32, exported.int8):
        by_onnx = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
        assert read_settings(path) == json.loads(by_onnx["settings"])
    settings = read_settings(exported.fp32)
    assert settings["models"] == 2 and settings["flip"] and settings["classes"] == ["Lung Opacity"]
    assert list(settings["checkpoints"]) == ["fold0/epoch002.pt", "fold1/epoch002.pt"]
    assert settings["rule"]["thresholds"] == [0.2] and settings["rule"]["gate_weights"] == [
        0.0,
        0.1,
        1.0,
    ]
    assert settings["code"] and settings["image_size"] == 192 and settings["stored_size"] == 224


def test_the_graph_is_plain_enough_for_opencv_4(exported):
    model = onnx.load(str(exported.fp32))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)]
    assert not {node.op_type for node in model.graph.node} & {
        "Shape",
        "Gather",
        "Slice",
        "ConstantOfShape",
        "Where",
    }


def test_int8_is_smaller_near_and_fine_grained(exported):
    assert exported.int8.stat().st_size < 0.4 * exported.fp32.stat().st_size
    picture = picture_of(exported, exported.table["image_id"][0])
    (fine, _, _), (coarse, _, category) = (
        Predictor(path).look(picture) for path in (exported.fp32, exported.int8)
    )
    assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.98
    assert len(np.unique(coarse)) > 1000 and category.sum() == pytest.approx(1, abs=1e-4)
    kinds = {
        tensor.name: tensor.data_type for tensor in onnx.load(str(exported.int8)).graph.initializer
    }
    assert list(kinds.values()).count(onnx.TensorProto.INT8) > 20


def test_the_last_convolutions_stay_in_floats(exported):
    names = last_convolutions(onnx.load(str(exported.fp32)).graph)
    assert len(names) == 2 * 2 * 3  # networks, heads, levels
    assert all("score_head" in name or "box_head" in name for name in names)


def test_each_image_is_judged_by_networks_that_never_saw_it(exported):
    """And not on the images that calibrated int8; the score is that of the boxes themselves."""
    config, seen = exported.config, []
    calibration, judged = deal_images(config, exported.table)
    assert len(calibration) == 3 and not set(calibration["image_id"]) & set(judged["image_id"])
    assert len(judged) == 7 == exported.report["images"]

    def predictor(path, models):
        def predict(picture, frame):
            seen.append((tuple(models), picture.tobytes()))
            return {"boxes": np.zeros((0, 4)), "kept": np.zeros(0, bool)}

        return predict

    chosen = choose_checkpoints(Rsna(), config)
    judge(Rsna(), config, config, exported.int8, judged, chosen, predictor)
    folds = {
        picture_of(exported, row["image_id"]).tobytes(): row["fold"] for _, row in judged.iterrows()
    }
    assert len(seen) == 7 and all(models == (folds[picture],) for models, picture in seen)


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_the_score_is_that_of_the_kept_boxes_on_validation_images(exported, kind):
    _, judged = deal_images(exported.config, exported.table)
    truth, found = {}, {}
    for _, row in judged.iterrows():
        predict = Predictor(getattr(exported, kind), models=[row["fold"]])
        truth[row["image_id"]] = np.array(json.loads(row["boxes"])).reshape(-1, 4), None
        found[row["image_id"]] = predict(
            picture_of(exported, row["image_id"]), (row["width"], row["height"])
        )
    assert exported.report[kind]["score"] == pytest.approx(
        Rsna().plain_score(truth, found, None), abs=1e-9
    )
    perfect = {
        key: {"boxes": boxes, "kept": np.ones(len(boxes), bool)}
        for key, (boxes, _) in truth.items()
    }
    assert Rsna().plain_score(truth, perfect, None) == 1, (
        "the true boxes would have had the full score"
    )


def test_a_file_of_one_fold_is_calibrated_on_what_it_was_trained_with(exported):
    calibration, judged = deal_images(
        replace(exported.config, fold=1, judge_images=3), exported.table
    )
    assert set(calibration["fold"]) == {0} and set(judged["fold"]) == {1} and len(judged) == 3


def test_what_is_there_is_kept_and_other_parameters_are_written_anew(exported):
    before = exported.fp32.stat().st_mtime_ns
    code, printed = run_here("06_export", *FLAGS, "--working", exported.config.working)
    assert code == 0 and "views are left out" in printed  # the preset's larger and smaller ones
    assert "nothing to do" in printed and exported.fp32.stat().st_mtime_ns == before
    report, params = exported.config.run_dir / "fold0.json", exported.config.run_dir / "params.json"
    flags = (
        *FLAGS,
        "--working",
        exported.config.working,
        "--fold",
        "0",
        "--tta",
        "none",
        "--judge-images",
        "1",
    )
    assert run_here("06_export", *flags)[0] == 0 and read_json(report)["settings"]["models"] == 1
    path = exported.config.run_dir / "fold0.onnx"
    assert (
        not read_settings(path)["flip"] and path.stat().st_size < 0.6 * exported.fp32.stat().st_size
    )
    old, content = path.stat().st_mtime_ns, params.read_text()
    write_json(params, read_json(params) | {"threshold": 3.0})
    try:
        assert run_here("06_export", *flags)[0] == 0
    finally:
        params.write_text(content)
    assert path.stat().st_mtime_ns > old and read_settings(path)["rule"]["thresholds"] == [0.6]


def test_refusals_say_what_to_do(exported, tmp_path):
    flags = (*FLAGS, "--working", exported.config.working)
    assert (
        run_here("06_export", *flags, "--tta", "flip+scale")[1].count("use --tta flip or none") == 1
    )
    params = exported.config.run_dir / "params.json"
    hidden = params.rename(params.with_suffix(".hidden"))
    try:
        code, printed = run_here("06_export", *flags)
    finally:
        hidden.rename(params)
    assert code == 1 and "05_postprocess.py" in printed and "Traceback" not in printed
    assert "03_train.py" in run_here("06_export", *flags, "--folds", "3")[1]
    huge = SimpleNamespace(
        image_size=192, state_dict=lambda: {"weight": torch.empty(2**28, device="meta")}
    )
    with pytest.raises(InputError, match="--checkpoints or --fold"):
        write_fp32(tmp_path / "x.onnx", [huge] * 3, {})
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_pytorchs_network_is_not_left_behind(exported, monkeypatch):
    monkeypatch.setattr("cxr.export.SCORE", 0.0)
    with pytest.raises(RuntimeError, match="differs from PyTorch"):
        run_here("06_export", *FLAGS, "--working", exported.config.working, "--fold", "1")
    assert not (exported.config.run_dir / "fold1.onnx").exists()


def test_all_kept_checkpoints_on_request(exported):
    config = exported.config
    assert [path.name for _, path in choose_checkpoints(Rsna(), config)] == ["epoch002.pt"] * 2
    every = replace(config, checkpoints=0, explicit=("checkpoints",))
    assert [(fold, path.name) for fold, path in choose_checkpoints(Rsna(), every)] == [
        (fold, f"epoch{epoch:03}.pt") for fold in (0, 1) for epoch in (1, 2)
    ]


def test_many_classes_have_a_threshold_each_and_are_judged_by_average_precision():
    task, names = TASKS["chestxdet"], TASKS["chestxdet"].box_classes[:2]
    config = SimpleNamespace(classes=2)
    rule = task.plain_rule({"threshold": dict(zip(names, (0.3, 0.7))), "nms_iou": 0.5}, config)
    assert (
        rule["thresholds"] == [0.3, 0.7] and rule["gate_weights"] == [] and rule["score_floor"] == 0
    )
    truth = {"a": (np.array([[0.0, 0, 9, 9]]), np.array([1]))}
    found = {
        "a": {
            "boxes": np.array([[0.0, 0, 9, 9]]),
            "scores": np.array([0.1]),
            "labels": np.array([1]),
            "kept": np.array([False]),
        }
    }
    assert (
        task.plain_score(truth, found, config) == 1
    )  # a low score counts: thresholds are no part of it
    assert task.plain_score(truth, {"a": found["a"] | {"labels": np.array([0])}}, config) == 0
