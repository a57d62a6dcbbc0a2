"""06_export.py: the ONNX files are PyTorch's networks, and their scores are measured honestly."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from exported import FLAGS, PARAMS, SIDE, STORED, TASK
from steps import run_here
from torch import nn

from cxr.data.dataset import read_png
from cxr.geometry.detections import TrueBoxes
from cxr.images.resize import resize
from cxr.inference.run import load_model, predict_batch, views_of
from cxr.methods.base import ImageFacts
from cxr.methods.detector.records import detect
from cxr.networks.onnx_graph import write_graph
from cxr.steps.export import export, ncnn_files
from cxr.steps.export.export import (
    ExportFiles,
    choose_checkpoints,
    deal_images,
    judge_files,
)
from cxr.steps.export.int8 import ScoreDistance, print_int8
from cxr.steps.export.ncnn_files import write_ncnn
from cxr.steps.export.onnx_files import (
    count_flop,
    early_convolutions,
    last_convolutions,
    stored_settings,
    write_fp32,
)
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError
from cxr.system.runtime import single_runtime
from cxr.tasks import TASKS
from edge_predict import Outputs, Predictor, Refused, read_settings, why_not_engine

CPU = torch.device("cpu")
SCORER = TASK.dataset.scorer


def picture_of(exported, image_id):
    return read_png(exported.run.task.image(image_id))


def by_step_04(exported, rows):
    """Detections of PyTorch with the last checkpoint of both folds and the mirrored view."""
    settings = exported.settings
    paths = [exported.run.fold(fold).epoch(2) for fold in (0, 1)]
    models = [load_model(TASK, path, CPU) for path in paths]
    pictures = [picture_of(exported, exported.table["image_id"][row]) for row in rows]
    images = torch.from_numpy(np.stack([resize(picture, SIDE) for picture in pictures]))[:, None]
    views = views_of(TASK.method, settings.prediction)
    runtime = single_runtime(settings.machine)
    merged = predict_batch(models, TASK.method, views, images, settings, runtime)
    detections = []
    for row, each in zip(rows, merged, strict=True):
        image = ImageFacts.of_row(exported.table.iloc[row])
        candidates = TASK.method.to_prediction(each, image, models[0], settings)
        detections.append(detect(candidates, PARAMS, SCORER.gate_weights))
    return detections


@pytest.mark.parametrize("engine", ["onnxruntime", "opencv", "openvino"])
def test_the_file_gives_the_boxes_of_pytorch(exported, engine):
    pytest.importorskip("cv2" if engine == "opencv" else engine)
    predict = Predictor(exported.fp32, engine)
    rows = range(4)
    total = 0
    for row, expected in zip(rows, by_step_04(exported, rows), strict=True):
        facts = exported.table.iloc[row]
        picture = picture_of(exported, facts["image_id"])
        predicted = predict(picture, (facts["width"], facts["height"]))
        kept = predicted["kept"]
        np.testing.assert_allclose(predicted["boxes"][kept], expected.boxes, atol=0.5)
        np.testing.assert_allclose(predicted["scores"][kept], expected.scores, atol=1e-3)
        np.testing.assert_array_equal(predicted["labels"][kept], expected.labels)
        assert predicted["category"].sum() == pytest.approx(1, abs=1e-5)
        total += len(expected)
    assert total > 8, "images without boxes prove nothing"


def test_parity_is_in_the_report(exported):
    parity = exported.report["parity"]
    assert 0 < parity["pixels"] < 0.5
    assert 0 < parity["mean_score"] < parity["score"] < 1e-3
    assert parity["images"] == 3


def test_how_far_int8_is_from_fp32(exported):
    """Mean and correlation of all scores above the floor, over all judged images."""
    fine = []
    coarse = []
    for _, row in deal_images(exported.settings, exported.table).judged.iterrows():
        picture = picture_of(exported, row["image_id"])
        scores = Predictor(exported.fp32, models=[row["fold"]]).look(picture).scores
        above = scores > 0.01
        fine.append(scores[above])
        coarse.append(Predictor(exported.int8, models=[row["fold"]]).look(picture).scores[above])
    fine = np.concatenate(fine)
    coarse = np.concatenate(coarse)
    report = exported.report["int8"]
    assert report["mean_score_error"] == pytest.approx(np.abs(fine - coarse).mean(), rel=1e-4)
    assert report["correlation"] == pytest.approx(np.corrcoef(fine, coarse)[0, 1], rel=1e-4)
    assert "correlation" not in exported.report["fp32"]


def test_a_large_error_of_int8_is_a_warning(capsys):
    print_int8({"mean_score_error": 0.011, "correlation": 0.9}, {})
    assert "warning: that is more than 0.01" in capsys.readouterr().out
    print_int8({"mean_score_error": 0.009, "correlation": None}, {})
    assert "warning" not in capsys.readouterr().out
    print_int8(ScoreDistance().describe(), {})
    assert "no score above" in capsys.readouterr().out


def test_the_report_says_how_long_a_board_takes(exported, capsys):
    files = ExportFiles.of(exported.run, None)
    settings = exported.report["settings"] | {"models": 2, "flip": True, "gflop": 4.0}
    export.print_report(files, exported.report | {"settings": settings})
    words = "16.0 GFLOP: 2 networks x 2 views x 4.0; on a board of two cores at 1 GHz about 2.0 s"
    assert words in capsys.readouterr().out


def test_operations_are_those_of_the_file(exported):
    """Two of each product of the convolutions, counted by hand; other layers have next to none."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(exported.fp32)).graph
    weights = {each.name: each.dims for each in graph.initializer}
    shapes = {}
    for each in [*graph.value_info, *graph.output]:
        shapes[each.name] = [size.dim_value for size in each.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            height, width = shapes[node.output[0]][2:]
            total += 2 * int(np.prod(weights[node.input[1]])) * height * width
    network = load_model(TASK, exported.run.fold(0).epoch(2), CPU)
    counted = count_flop(network, TASK.method.export)
    assert 2 * counted == pytest.approx(total, rel=0.01), "of two networks"


def test_settings_are_read_without_onnx(exported):
    for path in (exported.fp32, exported.int8):
        assert read_settings(path) == stored_settings(path)
    settings = read_settings(exported.fp32)
    assert settings["models"] == 2
    assert settings["flip"]
    assert settings["classes"] == ["Lung Opacity"]
    assert list(settings["checkpoints"]) == ["fold0/epoch002.pt", "fold1/epoch002.pt"]
    assert settings["rule"]["thresholds"] == [0.2]
    assert settings["rule"]["gate_weights"] == [0.0, 0.1, 1.0]
    assert settings["code"]
    assert settings["image_size"] == SIDE
    assert settings["stored_size"] == STORED


def test_the_graph_is_plain_enough_for_opencv_4(exported):
    model = onnx.load(str(exported.fp32))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)]
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Shape", "Gather", "Slice", "ConstantOfShape", "Where"}


def test_int8_is_smaller_near_and_fine_grained(exported):
    assert exported.int8.stat().st_size < 0.4 * exported.fp32.stat().st_size
    picture = picture_of(exported, exported.table["image_id"][0])
    fine = Predictor(exported.fp32).look(picture)
    coarse = Predictor(exported.int8).look(picture)
    assert np.corrcoef(fine.scores.ravel(), coarse.scores.ravel())[0, 1] > 0.98
    assert len(np.unique(coarse.scores)) > 1000
    assert coarse.category.sum() == pytest.approx(1, abs=1e-4)
    initializers = onnx.load(str(exported.int8)).graph.initializer
    types = [tensor.data_type for tensor in initializers]
    assert types.count(onnx.TensorProto.INT8) > 20


def test_the_last_convolutions_stay_in_floats(exported):
    names = last_convolutions(onnx.load(str(exported.fp32)).graph)
    assert len(names) == 2 * 2 * 3  # networks, heads, levels
    for name in names:
        assert "score_head" in name or "box_head" in name


def test_the_early_convolutions_stay_in_floats(exported):
    names = early_convolutions(onnx.load(str(exported.fp32)))
    assert len(names) == 6  # three of the stem in each of two networks
    quantized = {node.name: node for node in onnx.load(str(exported.int8)).graph.node}
    for name in names:
        assert "conv1" in name
        assert "image" not in quantized[name].input
        assert "Dequantize" not in "".join(quantized[name].input)


def test_which_convolutions_are_early(tmp_path):
    """Those before the image is a quarter of its side; a gate ends nothing, a decoder is late."""

    class Drawn(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3, 2, 1)
            self.depthwise = nn.Conv2d(4, 4, 3, 1, 1, groups=4)
            self.gate = nn.Conv2d(4, 4, 1)
            self.down = nn.Conv2d(4, 4, 3, 2, 1)
            self.middle = nn.Conv2d(4, 4, 3, 1, 1)
            self.decoder = nn.Conv2d(8, 1, 3, 1, 1)

        def forward(self, image):
            half = self.depthwise(self.stem(image).relu())
            half = half * self.gate(half.mean((2, 3), keepdim=True)).sigmoid()
            small = self.middle(self.down(half))
            return self.decoder(
                torch.cat([nn.functional.interpolate(small, scale_factor=2), half], 1)
            )

    path = tmp_path / "drawn.onnx"
    write_graph(path, Drawn().eval(), 16, ["mask"])
    names = early_convolutions(onnx.load(str(path)))
    assert names == ["/depthwise/Conv", "/down/Conv", "/stem/Conv"]


def test_each_image_is_judged_by_networks_that_never_saw_it(exported):
    """And not on the images that calibrated int8; the score is that of the boxes themselves."""
    settings = exported.settings
    images = deal_images(settings, exported.table)
    judged = images.judged
    assert len(images.calibration) == 3
    assert not set(images.calibration["image_id"]) & set(judged["image_id"])
    assert len(judged) == 7 == exported.report["images"]

    seen = []

    class Watching:
        def __init__(self, path, models):
            self.path = path
            self.models = tuple(models)

        def look(self, picture):
            seen.append((self.path, self.models, picture.tobytes()))
            return Outputs(np.array([[0.5, 0.001]]), np.zeros((1, 4)), np.zeros(3))

        def answer(self, outputs, frame):
            assert frame == (1024, 1024)
            nothing = np.zeros(0)
            boxes = np.zeros((0, 4))
            labels = nothing.astype(int)
            return {"boxes": boxes, "scores": nothing, "labels": labels, "kept": nothing > 0}

    chosen = choose_checkpoints(TASK, settings.replace(checkpoints=1))
    files = ExportFiles.of(exported.run, None)
    worth = judge_files(TASK, settings, files, judged, chosen, Watching)
    assert worth["int8"]["mean_score_error"] == 0
    assert worth["int8"]["correlation"] is None, "all scores above the floor are the same"
    folds = {}
    for _, row in judged.iterrows():
        folds[picture_of(exported, row["image_id"]).tobytes()] = row["fold"]
    assert len(seen) == 14
    assert {path for path, _, _ in seen} == {exported.fp32, exported.int8}
    for _, models, picture in seen:
        assert models == (folds[picture],)


@pytest.mark.parametrize("number_format", ["fp32", "int8"])
def test_the_score_is_that_of_the_kept_boxes_on_validation_images(exported, number_format):
    truth = {}
    predicted = {}
    perfect = {}
    for _, row in deal_images(exported.settings, exported.table).judged.iterrows():
        image_id = row["image_id"]
        boxes = np.array(json.loads(row["boxes"])).reshape(-1, 4)
        truth[image_id] = TrueBoxes(boxes, np.zeros(len(boxes), int))
        predict = Predictor(getattr(exported, number_format), models=[row["fold"]])
        size = (row["width"], row["height"])
        predicted[image_id] = predict(picture_of(exported, image_id), size)
        perfect[image_id] = {"boxes": boxes, "kept": np.ones(len(boxes), bool)}
    score = SCORER.score_exported(truth, predicted, TASK.dataset.labels)
    assert exported.report[number_format]["score"] == pytest.approx(score, abs=1e-9)
    assert SCORER.score_exported(truth, perfect, TASK.dataset.labels) == 1, (
        "the true boxes would have had the full score"
    )


def boxes_with(scores, labels):
    count = len(scores)
    kept = np.ones(count, bool)
    return {
        "boxes": np.zeros((count, 4)),
        "scores": np.array(scores, float),
        "labels": np.array(labels, int),
        "kept": kept,
    }


def test_thresholds_of_int8_keep_as_many_boxes_as_fp32_does():
    """Of each class on its own, unless it has few above its threshold."""
    rng = np.random.default_rng(0)
    part = TASK.method.export
    rule = {"thresholds": [0.5, 0.9], "half": False, "gate_weights": []}
    fine = []
    coarse = []
    for _ in range(30):
        scores = np.sort(rng.uniform(0, 1, 6))[::-1]
        labels = rng.integers(0, 2, 6)
        fine.append(boxes_with(scores, labels))
        coarse.append(boxes_with(0.8 * scores, labels))
    matched = part.match_thresholds(fine, coarse, rule)
    assert matched["thresholds"][0] == pytest.approx(0.4, abs=0.01)
    assert matched["thresholds"][1] == 0.9, "too few"
    for answer, other in zip(fine, coarse, strict=True):
        kept = part.keep_by(answer, rule)["kept"][answer["labels"] == 0]
        np.testing.assert_array_equal(
            part.keep_by(other, matched)["kept"][other["labels"] == 0], kept
        )


def test_boxes_kept_by_a_rule_are_those_of_the_file(exported):
    predict = Predictor(exported.int8)
    part = TASK.method.export
    for half in (False, True):
        rule = predict.settings["rule"] | {"half": half}
        predict.settings["rule"] = rule
        answer = predict(picture_of(exported, exported.table["image_id"][0]))
        assert 0 < answer["kept"].sum() < len(answer["kept"])
        np.testing.assert_array_equal(part.keep_by(answer, rule)["kept"], answer["kept"])


def test_the_int8_file_has_its_own_thresholds(exported):
    report = exported.report
    assert report["fp32"]["thresholds"] == [0.2]
    assert report["int8"]["thresholds"] == read_settings(exported.int8)["rule"]["thresholds"]
    assert report["int8"]["thresholds"][0] == pytest.approx(0.2, abs=0.05)
    assert report["int8"]["thresholds"] != [0.2]
    assert 0 <= report["int8"]["score_with_those_of_fp32"] <= 1


def test_a_file_of_one_fold_is_calibrated_on_what_it_was_trained_with(exported):
    settings = exported.settings.replace(fold=1, judge_images=3)
    images = deal_images(settings, exported.table)
    assert set(images.calibration["fold"]) == {0}
    assert set(images.judged["fold"]) == {1}
    assert len(images.judged) == 3


@pytest.fixture(scope="module")
def for_ncnn(exported, tmp_path_factory):
    """A copy of the fp32 file with ncnn's files beside it."""
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    path = tmp_path_factory.mktemp("ncnn") / "net.onnx"
    shutil.copyfile(exported.fp32, path)
    write_ncnn(path, why_not_engine)
    return path


def test_ncnn_gives_what_onnxruntime_gives(exported, for_ncnn):
    """Of one network of two, too, and of both."""
    picture = picture_of(exported, exported.table["image_id"][0])
    for models in ([1], None):
        right = Predictor(for_ncnn, models=models).look(picture)
        found = Predictor(for_ncnn, "ncnn", models=models, threads=1).look(picture)
        for each, expected in zip(found, right, strict=True):
            np.testing.assert_allclose(each, expected, atol=1e-3)


def test_files_of_ncnn_that_do_not_belong_together_are_refused(exported, for_ncnn, tmp_path):
    with pytest.raises(Refused, match=r"06_export\.py --ncnn"):
        Predictor(exported.fp32, "ncnn")
    for name in ("net.onnx", "net.ncnn.param", "net.ncnn.bin"):
        shutil.copyfile(for_ncnn.with_name(name), tmp_path / name)
    weights = tmp_path / "net.ncnn.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(Refused, match=r"net\.ncnn\.bin is damaged or of another net\.onnx"):
        Predictor(tmp_path / "net.onnx", "ncnn")
    weights.unlink()
    with pytest.raises(Refused, match=r"net\.ncnn\.bin is missing"):
        Predictor(tmp_path / "net.onnx", "ncnn")


def test_files_of_ncnn_are_written_when_it_is_right(exported, tmp_path, monkeypatch, capsys):
    path = tmp_path / "net.onnx"
    shutil.copyfile(exported.fp32, path)
    before = path.read_bytes()

    def convert(program, copy):
        for ending in ncnn_files.ENDINGS:
            copy.with_suffix(f".ncnn.{ending}").write_text("converted")

    monkeypatch.setattr(ncnn_files, "find_pnnx", lambda: None)
    monkeypatch.setattr(ncnn_files, "convert", lambda *_: None)
    with pytest.raises(InputError, match="cannot convert"):
        write_ncnn(path, lambda *_: "")
    monkeypatch.setattr(ncnn_files, "convert", convert)
    with pytest.raises(InputError, match="wrong scores; take another engine"):
        write_ncnn(path, lambda *_: "wrong scores")
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]
    assert path.read_bytes() == before
    write_ncnn(path, lambda *_: "")
    assert read_settings(path)["ncnn"]["outputs"][:2] == ["scores0", "deltas0"]
    assert "copy all three" in capsys.readouterr().out
    write_ncnn(path, lambda *_: "not asked again")
    assert "nothing to do" in capsys.readouterr().out


def test_step_06_writes_for_ncnn_on_request(exported, monkeypatch):
    written = []
    monkeypatch.setattr(export, "write_ncnn", lambda path, _: written.append(path))
    flags = (*FLAGS, "--working", exported.settings.place.working)
    code, printed = run_here("06_export", *flags, "--ncnn")
    assert code == 0, printed
    assert written == [exported.fp32]


def test_what_is_there_is_kept(exported):
    before = exported.fp32.stat().st_mtime_ns
    code, printed = run_here("06_export", *FLAGS, "--working", exported.settings.place.working)
    assert code == 0, printed
    assert "nothing to do" in printed
    assert exported.fp32.stat().st_mtime_ns == before


def test_other_parameters_are_written_anew(exported):
    working = exported.settings.place.working
    further = ("--fold", "0", "--tta", "none", "--judge-images", "1")
    flags = (*FLAGS, "--working", working, *further)
    code, printed = run_here("06_export", *flags)
    assert code == 0, printed
    path = exported.run.path / "fold0.onnx"
    assert read_json(path.with_suffix(".json"))["settings"]["models"] == 1
    assert not read_settings(path)["flip"]
    assert path.stat().st_size < 0.6 * exported.fp32.stat().st_size

    old = path.stat().st_mtime_ns
    params = exported.run.judged().params
    content = params.read_text()
    write_json(params, read_json(params) | {"threshold": 3.0})
    try:
        code, printed = run_here("06_export", *flags)
    finally:
        params.write_text(content)
    assert code == 0, printed
    assert path.stat().st_mtime_ns > old
    assert read_settings(path)["rule"]["thresholds"] == [0.6]


def test_refusals_say_what_to_do(exported):
    flags = (*FLAGS, "--working", exported.settings.place.working)
    _, printed = run_here("06_export", *flags, "--tta", "flip+scale")
    assert printed.count("use --tta flip") == 1
    params = exported.run.judged().params
    hidden = params.rename(params.with_suffix(".hidden"))
    try:
        code, printed = run_here("06_export", *flags)
    finally:
        hidden.rename(params)
    assert code == 1
    assert "05_postprocess.py" in printed
    assert "Traceback" not in printed
    assert "03_train.py" in run_here("06_export", *flags, "--folds", "3")[1]


def test_a_run_in_a_file_is_calibrated_on_the_images_that_are_here(exported):
    """And not judged on them, since it is not known who has learned them."""
    judged = exported.run.judged()
    write_json(judged.results, {})
    judged.model_card.write_text("")
    working = ("--working", exported.settings.place.working)
    code, printed = run_here("06_export", *FLAGS, *working, "--fold", "0", "--zip", "--half")
    assert code == 0, printed
    assert "2 networks, " in printed
    assert "its scores of 10 images differ" in printed
    flags = ("--run", exported.run.archive, "--tta", "none", *working)
    code, printed = run_here("06_export", *flags)
    assert code == 0, printed
    assert "not judged" in printed
    [report] = (exported.settings.place.working / "unpacked").glob("*/rsna/tiny/merged.json")
    assert read_json(report)["settings"]["models"] == 1
    assert read_json(report)["fp32"]["score"] is None


def test_too_many_networks_for_a_file(tmp_path):
    weights = {"weight": torch.empty(2**28, device="meta")}
    huge = SimpleNamespace(image_size=SIDE, state_dict=lambda: weights)
    with pytest.raises(InputError, match="--checkpoints or --fold"):
        write_fp32(tmp_path / "x.onnx", [huge] * 3, {}, TASK.method.export)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_pytorchs_network_is_not_left_behind(exported, monkeypatch):
    monkeypatch.setattr(export, "MOST_SCORE", 0.0)
    flags = (*FLAGS, "--working", exported.settings.place.working, "--fold", "1")
    with pytest.raises(RuntimeError, match="differs from PyTorch"):
        run_here("06_export", *flags)
    assert not (exported.run.path / "fold1.onnx").exists()


def test_all_kept_checkpoints_on_request(exported):
    settings = TASK.make_settings(exported.settings.flat())
    chosen = choose_checkpoints(TASK, settings)
    assert [each.path.name for each in chosen] == ["epoch002.pt"] * 2
    asked = TASK.make_settings(settings.flat() | {"checkpoints": 0}, given=("checkpoints",))
    chosen = choose_checkpoints(TASK, asked)
    assert [(each.fold, each.path.name) for each in chosen] == [
        (0, "epoch001.pt"),
        (0, "epoch002.pt"),
        (1, "epoch001.pt"),
        (1, "epoch002.pt"),
    ]


def test_many_classes_have_a_threshold_each_and_are_judged_by_average_precision():
    task = TASKS["chestxdet"]
    settings = task.make_settings({"classes": 2})
    labels = task.used_labels(settings)
    scorer = task.dataset.scorer
    params = {"threshold": dict(zip(labels.classes, (0.3, 0.7), strict=True)), "nms_iou": 0.5}
    rule = scorer.export_rule(params, settings, labels)
    assert rule["thresholds"] == [0.3, 0.7]
    assert rule["gate_weights"] == []
    assert rule["score_floor"] == 0

    truth = {"a": TrueBoxes(np.array([[0.0, 0, 9, 9]]), np.array([1]))}
    predicted = {
        "boxes": np.array([[0.0, 0, 9, 9]]),
        "scores": np.array([0.1]),
        "labels": np.array([1]),
        "kept": np.array([False]),
    }
    # A low score counts: thresholds are no part of it.
    assert scorer.score_exported(truth, {"a": predicted}, labels) == 1
    wrong = predicted | {"labels": np.array([0])}
    assert scorer.score_exported(truth, {"a": wrong}, labels) == 0
