"""Prediction: views and their undoing, the merge, files that are whole or absent, resume, refusals."""

import itertools
import json
import math
import os
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_task import SIDE, TinyTask, tiny_config, write_tiny_data

from cxr.config import Config
from cxr.data.dataset import read_table
from cxr.datasets.rsna.dataset import Rsna
from cxr.geometry.anchors import decode_boxes, encode_boxes, flip_index, make_anchors, parse_levels
from cxr.geometry.boxes import box_iou, centre_size
from cxr.inference import predictions
from cxr.inference import run as inference
from cxr.inference.checkpoint import load_state, plain_config, save_state, stored_config
from cxr.inference.predictions import part_count, part_path, write_part
from cxr.inference.run import VIEWS, fold_checkpoints, load_model, predict_batch, predict_run
from cxr.methods.detector.records import Candidates
from cxr.steps.train.engine import train_folds
from cxr.system import distributed
from cxr.system.disk import InputError

TASK = TinyTask()
CPU = torch.device("cpu")
read_predictions = partial(predictions.read_predictions, kind=Candidates)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Configuration of a run with both folds trained for two epochs."""
    torch.set_num_threads(1)
    working = tmp_path_factory.mktemp("inference")
    write_tiny_data(working, train=18, test=7)
    config = tiny_config(working, fold=None, epochs=2)
    train_folds(TASK, config)
    return config


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Three images in a file."""
    monkeypatch.setattr(inference, "PART", 3)
    monkeypatch.setattr(predictions, "PART", 3)


@pytest.fixture
def config(trained, request):
    return replace(trained, predictions=request.node.name.translate(str.maketrans("[]/ ", "____")))


def folder_of_test(config):
    return config.run_dir / f"test_{config.predictions}"


def assert_same(a, b, tolerance=0.0):
    for name in ("image_id", "width", "height"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("category", "centre", "size20", "size80", "score", "label"):
        x, y = getattr(a, name), getattr(b, name)
        assert (
            x.shape == y.shape
            and x.dtype == y.dtype
            and np.allclose(x, y, atol=tolerance, rtol=tolerance)
        ), name


@pytest.fixture(scope="module")
def network():
    """The real network with random outputs."""
    torch.manual_seed(0)
    model = (
        Rsna()
        .build_model(
            Config(
                encoder="tu-resnet10t",
                weights="none",
                levels="3-6",
                channels=16,
                head_convs=1,
                image_size=192,
            )
        )
        .eval()
    )
    for layer in (model.score_head[-1], model.box_head[-1]):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return model


def all_deltas(undone):
    """Deltas (B, A, 4) of every anchor."""
    images, anchors = undone["scores"].shape[:2]
    image, anchor = (
        torch.arange(images).repeat_interleave(anchors),
        torch.arange(anchors).repeat(images),
    )
    return undone["deltas"](image, anchor).unflatten(0, (images, anchors))


def given(deltas):
    """What `merge` gets in place of deltas (B, A, 4)."""
    return lambda image, anchor: torch.as_tensor(deltas)[image, anchor]


@torch.inference_mode()
@pytest.mark.parametrize("view", [(0, False), (0, True), (1, True), (1, False)])
def test_boxes_asked_for_later_are_those_of_the_whole_outputs(network, view):
    task, images = Rsna(), torch.randint(0, 256, (2, 1, 192, 192), dtype=torch.uint8)
    image, anchor = (
        torch.tensor([1, 0, 1, 0]),
        torch.tensor([0, 500, 3000, len(network.anchors) - 1]),
    )
    seen = task.apply_view(images, view, network)
    whole, later = (
        task.undo_view(raw, view, network) for raw in (network(seen), task.outputs(network, seen))
    )
    assert torch.equal(whole["scores"], later["scores"]) and torch.equal(
        whole["category"], later["category"]
    )
    assert torch.allclose(whole["deltas"](image, anchor), later["deltas"](image, anchor), atol=1e-4)
    assert torch.equal(whole["deltas"](image, anchor), all_deltas(whole)[image, anchor])


def test_flipped_views_of_a_flipped_image_are_the_same(network):
    """Averaged over both views, the outputs for the mirror image are those of the picture, mirrored."""
    task, images = Rsna(), torch.randint(0, 256, (1, 1, 192, 192), dtype=torch.uint8)
    means = []
    with torch.inference_mode():
        for start in (images, images.flip(-1)):
            seen = [
                task.undo_view(network(task.apply_view(start, view, network)), view, network)
                for view in VIEWS["flip"]
            ]
            seen = [one | {"deltas": all_deltas(one)} for one in seen]
            means.append({name: sum(s[name] for s in seen) / 2 for name in seen[0]})
            assert (seen[0]["scores"] - seen[1]["scores"]).abs().max() > 1e-3
    index = flip_index(192, network.levels)
    assert torch.allclose(means[0]["scores"], means[1]["scores"][:, index], atol=1e-5)
    assert torch.allclose(
        means[0]["deltas"], means[1]["deltas"][:, index] * torch.tensor([-1.0, 1, 1, 1]), atol=1e-4
    )
    assert torch.allclose(means[0]["category"], means[1]["category"], atol=1e-5)


def perfect_outputs(box, side, levels):
    """What a network that knows the box says of a picture of this side: its IoU as probability, and the box itself."""
    anchors = make_anchors(side, levels)
    overlap = box_iou(anchors, box[None])[:, 0].clamp(1e-3, 1 - 1e-3)
    return {
        "scores": overlap.logit()[None, :, None],
        "deltas": encode_boxes(box.expand(len(anchors), 4), anchors)[None],
        "category": torch.zeros(1, 3),
    }


@pytest.mark.parametrize("view", VIEWS["flip+scale"])
def test_every_view_is_undone(view):
    """The box of a perfect network comes back from every view, with scores like those without a view."""
    task, size, levels = Rsna(), 256, parse_levels("3-6")
    model = SimpleNamespace(levels=levels, image_size=size, anchors=make_anchors(size, levels))
    box = torch.tensor([60.0, 80, 150, 190])
    image = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    image[..., 80:190, 60:150] = 255
    seen = task.apply_view(image, view, model)
    side = seen.shape[-1]
    assert side == {0: 256, 1: 320, -1: 192}[view[0]]
    in_view = box * side / size
    if view[1]:
        in_view = torch.stack([side - in_view[2], in_view[1], side - in_view[0], in_view[3]])
    x1, y1, x2, y2 = in_view.round().int().tolist()
    assert seen[..., y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].min() > 250
    assert float(seen.float().mean()) == pytest.approx(float(image.float().mean()), rel=0.01)
    undone = task.undo_view(perfect_outputs(in_view, side, levels), view, model)
    assert torch.allclose(
        decode_boxes(all_deltas(undone)[0], model.anchors), box.expand(len(model.anchors), 4), atol=0.05
    )
    plain = task.undo_view(perfect_outputs(box, size, levels), (0, False), model)
    difference = (undone["scores"] - plain["scores"]).abs()
    assert difference.mean() < 0.02 and undone["scores"].max() > plain["scores"].max() - 0.15
    assert torch.allclose(undone["category"], torch.full((1, 3), 1 / 3))


def test_a_view_that_would_be_too_small(network):
    images = torch.zeros(1, 1, 192, 192, dtype=torch.uint8)
    with pytest.raises(
        InputError, match="192 pixels to 128, and the network needs 192: use --tta flip"
    ):
        Rsna().apply_view(images, (-1, False), network)
    with pytest.raises(InputError, match="use --tta flip"):  # before the training, too
        Rsna().select(None, Config(image_size=192, levels="3-5", tta="flip+scale"))
    table = pd.DataFrame()
    assert Rsna().select(table, Config(image_size=256, levels="3-5", tta="flip+scale")) is table


def outputs_of(scores, deltas, category):
    return {
        "scores": torch.tensor(scores)[None, :, None],
        "deltas": given(torch.tensor(deltas)[None]),
        "category": torch.tensor([category]),
    }


def test_merge_by_hand():
    """Five models, three anchors: means of scores, of dx, dy and of the classes; percentiles of dw and dh.

    The 20th percentile of 0, 1, 2, 3, 4 lies at 0.8 and the 80th at 3.2; of 0, 0, 0, 0, 5 at 0 and 1.0.
    """
    anchors = make_anchors(SIDE, [6])[[1, 40, 4]]
    width, height = centre_size(anchors)[1][0].tolist()
    model = SimpleNamespace(anchors=anchors, image_size=SIDE)
    outputs = [
        outputs_of(
            [0.1 * k, 0.001, 0.9],
            [[0.5 * k, -1.0, 1.0 * k, 5.0 * (k == 4)], [9.0] * 4, [0.0] * 4],
            [0.2 * k, 1 - 0.2 * k, 0.0],
        )
        for k in range(5)
    ]
    merged = TASK.merge(outputs)[0]
    assert merged["anchor"].tolist() == [2, 0] and merged["deltas"].shape == (5, 2, 4)
    found = TASK.candidates(
        merged, {"image_id": "a", "width": 2 * SIDE, "height": SIDE}, model, None
    )
    assert found.score.tolist() == pytest.approx([0.9, 0.2]) and found.label.tolist() == [0, 0]
    assert found.category.tolist() == pytest.approx([0.4, 0.6, 0.0])
    centre = centre_size(anchors)[0][0]
    expected = 2 * (float(centre[0]) + 0.1 * 1.0 * width), float(centre[1]) - 0.1 * height
    assert found.centre[1].tolist() == pytest.approx(expected, rel=1e-5)
    assert found.size20[1].tolist() == pytest.approx(
        [2 * width * math.exp(0.2 * 0.8), height], rel=1e-5
    )
    largest = [2 * width * math.exp(0.2 * 3.2), height * math.exp(0.2 * 1.0)]
    assert found.size80[1].tolist() == pytest.approx(largest, rel=1e-5)
    width, height = centre_size(anchors)[1][2].tolist()
    assert found.size20[0].tolist() == pytest.approx([2 * width, height], rel=1e-5)


def test_merge_keeps_the_best_thousand_in_falling_order():
    scores = torch.rand(2, 3000, 1)
    outputs = [
        {
            "scores": scores,
            "deltas": given(torch.zeros(2, 3000, 4)),
            "category": torch.ones(2, 3) / 3,
        }
    ]
    for i, merged in enumerate(TASK.merge(outputs)):
        best = scores[i].max(-1)
        assert len(merged["score"]) == 1000 and (merged["score"].diff() <= 0).all()
        assert torch.equal(merged["score"], best.values.sort(descending=True).values[:1000])
        assert (
            torch.equal(scores[i, merged["anchor"], 0], merged["score"])
            and not merged["label"].any()
        )


def test_merge_keeps_the_best_thousand_of_each_class():
    """A class with low scores is not crowded out, and one anchor may speak for both."""
    scores = torch.rand(1, 3000, 2) * torch.tensor([1.0, 0.1]) + torch.tensor([0.0, 0.011])
    merged = TASK.merge(
        [
            {
                "scores": scores,
                "deltas": given(torch.zeros(1, 3000, 4)),
                "category": torch.ones(1, 3) / 3,
            }
        ]
    )[0]
    assert (
        torch.bincount(merged["label"]).tolist() == [1000, 1000]
        and (merged["score"].diff() <= 0).all()
    )
    assert torch.equal(scores[0, merged["anchor"], merged["label"]], merged["score"])
    assert merged["deltas"].shape == (1, 2000, 4)
    for k in (0, 1):
        own = merged["score"][merged["label"] == k]
        assert torch.equal(own, scores[0, :, k].sort(descending=True).values[:1000])


def test_no_candidates():
    model = SimpleNamespace(anchors=make_anchors(SIDE, [6]), image_size=SIDE)
    count = len(model.anchors)
    outputs = {
        "scores": torch.full((1, count, 1), 0.009),
        "deltas": given(torch.zeros(1, count, 4)),
        "category": torch.ones(1, 3) / 3,
    }
    found = TASK.candidates(
        TASK.merge([outputs, outputs])[0], {"image_id": "a", "width": 10, "height": 20}, model, None
    )
    assert found.score.shape == (
        0,
    ) and found.centre.shape == found.size20.shape == found.size80.shape == (0, 2)
    assert found.category.tolist() == pytest.approx([1 / 3] * 3)


def test_a_batch_is_its_images(trained):
    models = [load_model(TASK, path, CPU) for path in fold_checkpoints(TASK, trained, 0)]
    images = torch.randint(0, 256, (3, 1, SIDE, SIDE), dtype=torch.uint8)
    together = predict_batch(TASK, models, VIEWS["flip"], images, "fp32")
    for i in range(3):
        alone = predict_batch(TASK, models, VIEWS["flip"], images[i : i + 1], "fp32")[0]
        assert alone["deltas"].shape[0] == 4  # two epochs, two views
        assert all(
            torch.allclose(together[i][name], alone[name], atol=1e-5)
            for name in ("score", "category")
        )


def make_candidates(name, n, seed=0):
    rng = np.random.default_rng(seed)
    pairs = [rng.uniform(1, 500, (n, 2)).astype(np.float32) for _ in range(3)]
    return Candidates(
        name,
        640,
        480 + seed,
        rng.dirichlet([1, 1, 1]).astype(np.float32),
        *pairs,
        np.sort(rng.random(n))[::-1].astype(np.float32),
        rng.integers(0, 3, n).astype(np.int16),
    )


def test_files_return_what_was_written(tmp_path):
    written = [make_candidates("a", 3), make_candidates("ü/0", 0, 1), make_candidates("007", 5, 2)]
    write_part(tmp_path, 0, written[:2])
    write_part(tmp_path, 1, written[2:])
    for a, b in zip(written, read_predictions(tmp_path), strict=True):
        assert_same(a, b)


def test_a_file_of_images_without_candidates(tmp_path):
    write_part(tmp_path, 0, [make_candidates("a", 0), make_candidates("b", 0)])
    assert [c.image_id for c in read_predictions(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
def test_files_that_are_cut_off_are_refused(tmp_path, share):
    write_part(tmp_path, 0, [make_candidates("a", 40)])
    content = part_path(tmp_path, 0).read_bytes()
    part_path(tmp_path, 0).write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        InputError, match="part-00000.npz is not a whole prediction file.*run step 04 again"
    ):
        list(read_predictions(tmp_path))


@pytest.mark.parametrize("images, parts", [(0, 0), (1, 1), (3, 1), (4, 2)])
def test_number_of_files(images, parts):
    assert part_count(images) == parts


def test_a_run_predicts_every_image_once(config):
    predict_run(TASK, config)
    table = pd.read_csv(config.task_dir / "train.csv")
    for fold, parts in ((0, 4), (1, 3)):
        folder = config.fold_dir(fold) / f"valid_{config.predictions}"
        found = list(read_predictions(folder))
        assert [c.image_id for c in found] == table["image_id"][table["fold"] == fold].tolist()
        assert len(list(folder.glob("part-*.npz"))) == parts
        assert all((c.width, c.height) == (128, 96) for c in found)
    assert [c.image_id for c in read_predictions(folder_of_test(config))] == [
        f"test{i:03}" for i in range(7)
    ]


def test_validation_images_meet_only_the_models_of_their_fold(config, monkeypatch):
    used = {}

    def spy(task, config, paths, table, folder, device, precision):
        used[folder.parent.name] = [f"{p.parent.name}/{p.name}" for p in paths]

    monkeypatch.setattr(inference, "predict_table", spy)
    predict_run(TASK, config)
    assert used == {
        f"fold{k}": [f"fold{k}/epoch001.pt", f"fold{k}/epoch002.pt"] for k in (0, 1)
    } | {
        "run": ["fold0/epoch001.pt", "fold0/epoch002.pt", "fold1/epoch001.pt", "fold1/epoch002.pt"]
    }
    used.clear()
    predict_run(TASK, replace(config, fold=1, checkpoints=1))
    assert used == {"fold1": ["fold1/epoch002.pt"]}


def test_a_single_model_without_views_is_its_own_merge(config):
    predict_run(TASK, replace(config, fold=0, tta="none", checkpoints=1))
    for found in read_predictions(config.fold_dir(0) / f"valid_{config.predictions}"):
        assert np.array_equal(found.size20, found.size80)
    other = replace(config, predictions=config.predictions + "-merged", fold=0)
    predict_run(TASK, other)
    merged = list(read_predictions(other.fold_dir(0) / f"valid_{other.predictions}"))
    assert any((c.size20 < c.size80).any() for c in merged)
    assert all(
        (c.size20 <= c.size80 * (1 + 1e-6)).all() and (np.diff(c.score) <= 0).all() for c in merged
    )


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", [1, 2, 5, 9])
def test_a_killed_run_goes_on(config, monkeypatch, capsys, call):
    """Killed before the given file is written: the next run keeps what is there and ends with the same files."""
    original, calls = inference.write_part, itertools.count(1)

    def killer(*args):
        if next(calls) == call:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(inference, "write_part", killer)
        with pytest.raises(Killed):
            predict_run(TASK, config)
    written = config.run_dir.rglob(f"*{config.predictions}/part-*.npz")
    kept = {path: path.stat().st_mtime_ns for path in written}
    assert len(kept) == call - 1
    predict_run(TASK, config)
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    whole = replace(config, predictions=config.predictions + "-whole")
    predict_run(TASK, whole)
    for folder in ("fold0/valid", "fold1/valid", "test"):
        pair = (read_predictions(c.run_dir / f"{folder}_{c.predictions}") for c in (config, whole))
        for a, b in zip(*pair, strict=True):
            assert_same(a, b, 1e-5)
    capsys.readouterr()
    predict_run(TASK, config)
    assert capsys.readouterr().out.count("are there, nothing to do") == 3


@pytest.mark.parametrize(
    "change, reason", [({"tta": "none"}, "tta"), ({"checkpoints": 1}, "checkpoints")]
)
def test_predictions_made_otherwise_are_refused(config, change, reason):
    predict_run(TASK, replace(config, fold=0))
    with pytest.raises(
        InputError, match=f"made with other {reason}: delete that folder, or.*--predictions"
    ):
        predict_run(TASK, replace(config, fold=0, **change))


def test_predictions_of_other_images_are_refused(config):
    predict_run(TASK, config)
    path = config.task_dir / "test.csv"
    before = path.read_text()
    try:
        path.write_text(before.replace("test001", "test000"))
        with pytest.raises(InputError, match="made with other ids"):
            predict_run(TASK, config)
    finally:
        path.write_text(before)


def test_processes_share_the_files(config, monkeypatch):
    """Three processes, one after the other here: each writes every third of the files, and together all of them."""
    once = replace(config, predictions=config.predictions + "-once")
    predict_run(TASK, once)
    monkeypatch.setattr(distributed, "world", lambda: 3)
    absent = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        folder = config.run_dir / f"rank{rank}"
        paths = [path for fold in (0, 1) for path in fold_checkpoints(TASK, config, fold)]
        inference.predict_table(
            TASK, config, paths, read_table(config.task_dir / "test.csv"), folder, CPU, "fp32"
        )
        absent.append(sorted(int(p.stem[-5:]) for p in folder.glob("part-*.npz")))
        for path in folder.glob("part-*.npz"):
            folder_of_test(config).mkdir(exist_ok=True)
            os.replace(path, folder_of_test(config) / path.name)
    assert absent == [[0], [1], [2]]
    for a, b in zip(
        read_predictions(folder_of_test(config)),
        read_predictions(folder_of_test(once)),
        strict=True,
    ):
        assert_same(a, b, 1e-5)


def test_no_test_images(config):
    path = config.task_dir / "test.csv"
    before = path.read_text()
    try:
        path.write_text(before.splitlines()[0] + "\n")
        predict_run(TASK, config)
    finally:
        path.write_text(before)
    assert list(read_predictions(folder_of_test(config))) == []


def test_a_model_is_rebuilt_from_the_checkpoint_alone(trained):
    path = trained.fold_dir(0) / "epoch002.pt"
    model = load_model(TASK, path, CPU)
    state = load_state(path)
    assert not model.training and model.pretrained is False and model.dropout.p == trained.dropout
    assert all(
        torch.equal(value, state["model"][name]) for name, value in model.state_dict().items()
    )


def test_stored_config_is_the_config(trained):
    stored = stored_config(plain_config(trained) | {"setting of an old version": 3})
    assert plain_config(stored) == plain_config(trained) and stored.working == trained.working


def test_checkpoint_of_another_task(trained, tmp_path):
    state = load_state(trained.fold_dir(0) / "epoch002.pt")
    save_state(tmp_path / "epoch001.pt", state | {"task": "other"})
    with pytest.raises(InputError, match="epoch001.pt belongs to task other, not tiny"):
        load_model(TASK, tmp_path / "epoch001.pt", CPU)
    with pytest.raises(InputError, match="last.pt is no checkpoint of step 03"):
        load_model(TASK, trained.fold_dir(0) / "last.pt", CPU)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_checkpoint_that_is_cut_off(trained, tmp_path, share):
    content = (trained.fold_dir(0) / "epoch002.pt").read_bytes()
    (tmp_path / "epoch002.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        InputError, match="epoch002.pt is not a whole checkpoint.*run step 03 again"
    ):
        load_model(TASK, tmp_path / "epoch002.pt", CPU)


def test_runs_that_cannot_be_predicted(trained, tmp_path):
    with pytest.raises(
        InputError, match="fold0 does not exist: train the fold with 03_train.py first"
    ):
        fold_checkpoints(TASK, replace(trained, run="nowhere"), 0)
    other = SimpleNamespace(name="other")
    with pytest.raises(InputError, match="belongs to task tiny, not other"):
        fold_checkpoints(other, trained, 0)
    with pytest.raises(InputError, match="trained with other values of lr: leave these flags out"):
        fold_checkpoints(TASK, replace(trained, lr=0.5, explicit=("lr", "workers")), 0)
    assert len(fold_checkpoints(TASK, replace(trained, explicit=("lr", "epochs")), 0)) == 2


def test_networks_of_two_runs_are_merged_fold_by_fold(config):
    """Class probabilities of the merged networks are the mean of both runs'."""
    train_folds(TASK, replace(config, run="seed7", seed=7))
    predict_run(TASK, replace(config, tta="none"))
    both = replace(config, tta="none", merge=("seed7",), predictions=config.predictions + "-both")
    paths = [
        path.relative_to(config.task_dir).as_posix() for path in fold_checkpoints(TASK, both, 1)
    ]
    assert paths == [f"{run}/fold1/epoch00{k}.pt" for run in (config.run, "seed7") for k in (1, 2)]
    predict_run(TASK, both)
    settings = json.loads(
        (both.fold_dir(1) / f"valid_{both.predictions}" / "settings.json").read_text()
    )
    assert list(settings["checkpoints"]) == [
        f"{where}fold1/epoch00{k}.pt" for where in ("", "../seed7/") for k in (1, 2)
    ]
    predict_run(TASK, replace(config, run="seed7", tta="none"))
    found = [
        {c.image_id: c.category for c in read_predictions(run.run_dir / f"test_{run.predictions}")}
        for run in (config, replace(config, run="seed7"), both)
    ]
    for image_id, merged in found[2].items():
        np.testing.assert_allclose(merged, (found[0][image_id] + found[1][image_id]) / 2, atol=1e-6)


def test_runs_that_cannot_be_merged(config):
    with pytest.raises(InputError, match="nowhere/fold0 does not exist"):
        fold_checkpoints(TASK, replace(config, merge=("nowhere",)), 0)
    folder = shutil.copytree(config.fold_dir(0), config.task_dir / "large" / "fold0")
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | {"image_size": 512}))
    with pytest.raises(
        InputError, match="--merge large is impossible: its image_size is 512 and that of run 192"
    ):
        fold_checkpoints(TASK, replace(config, merge=("large",)), 0)


def test_a_fold_that_is_not_finished_needs_partial(trained):
    half = replace(trained, run="half", fold=0, max_hours=1e-9)
    train_folds(TASK, half)
    with pytest.raises(InputError, match="fold0 is not finished"):
        fold_checkpoints(TASK, replace(half, partial=True), 0)
    while len(list(half.fold_dir(0).glob("epoch*.pt"))) < 1:
        train_folds(TASK, half)
    with pytest.raises(InputError, match="fold0 is not finished: run 03_train.py.*--partial"):
        fold_checkpoints(TASK, half, 0)
    assert [p.name for p in fold_checkpoints(TASK, replace(half, partial=True), 0)] == [
        "epoch001.pt"
    ]


def test_predictions_of_a_fold_that_was_trained_again_are_refused(config, tmp_path):
    """The checkpoint has its old name but other weights."""
    shutil.copytree(config.working, tmp_path / "working")
    config = replace(config, working=tmp_path / "working", fold=0)
    predict_run(TASK, config)
    path = fold_checkpoints(TASK, config, 0)[-1]
    state = load_state(path)
    name = next(iter(state["model"]))
    save_state(path, state | {"model": state["model"] | {name: state["model"][name] + 1}})
    with pytest.raises(InputError, match="made with other checkpoints: delete that folder"):
        predict_run(TASK, config)
