"""The benchmarks' references give the results of cxr; each script runs to its end on something
tiny."""

import sys
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from steps import link_tree

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NETWORK = "--encoder resnet18 --image-size 192 --levels 5-6 --rounds 1"
# Flags of a tiny run, and beginnings of the rows that its table must have.
SCRIPTS = {
    "training_step": (
        f"{NETWORK} --images 4",
        ("reference", "ours", "limit", "share", "loader"),
    ),
    "prediction": (f"{NETWORK} --models 1", ("reference", "ours", "limit", "share")),
    "augmentation": (
        f"{NETWORK} --images 3 --step-seconds 1",
        ("reference", "ours", "one training step"),
    ),
    "loss": ("--image-size 192 --levels 5-6 --rounds 1", ("reference", "ours")),
    "search": (
        "--images 12 --sampled-images 3 --sampled-combinations 4 --rounds 1",
        ("published values", "whole grid"),
    ),
    "preprocessing": (
        "--images 3 --rounds 1",
        ("limit", "reference", "ours", "step 02, two workers"),
    ),
    "masks": (
        "--images 50 --rounds 1",
        ("reading run lengths: ours", "writing them: ours", "Dice of"),
    ),
}


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """The folder from which the scripts import one another; PyTorch's threads and OpenCV's as they
    were afterwards."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    torch.set_num_threads(threads)


def read_table(name, monkeypatch, capsys, *flags):
    """Cells of the one table that a script prints, {first cell: the others}."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
    __import__(name).main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[0] == "| what | value | ratio | to reach | reached |"
    table = {}
    for line in lines:
        first, *others = line.strip("|").split("|")
        table[first.strip()] = [cell.strip() for cell in others]
    return table


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_print_their_table(name, monkeypatch, capsys):
    flags, rows = SCRIPTS[name]
    table = read_table(name, monkeypatch, capsys, *flags.split())
    for row in rows:
        assert any(what.startswith(row) for what in table), row
    judged = [cells for cells in table.values() if cells[-1] in ("yes", "NO")]
    assert judged
    assert all(cells[2] for cells in judged)


@pytest.mark.parametrize(
    "change, encoder",
    [
        ("frozen", "resnext50_32x4d"),
        ("groups", "resnext50_32x4d"),
        ("squeeze", "se_resnet50"),
    ],
)
def test_what_a_change_of_the_network_brings(change, encoder, monkeypatch, capsys):
    flags = ["--encoder", encoder, *NETWORK.split()[2:], f"--{change}"]
    table = read_table("training_step", monkeypatch, capsys, *flags)
    names = {
        "frozen": ["frozen batch norms", "folded into the convolutions"],
        "groups": ["without", "MergedGroups, 7 modules"],
        "squeeze": ["without", "FastSqueeze, 16 modules"],
    }
    assert list(table)[2:] == names[change]


def test_kinds_of_layers_hold_all_operations_of_a_step():
    from layers import FORWARD, make_settings, profile_step, spend
    from reference import random_batch
    from timing import count_operations
    from training_step import CPU, OurTraining

    from cxr.system.runtime import Runtime

    flags = {"encoder": "tu-test_resnet", "image_size": 192, "levels": "5-6", "batch_size": 1}
    settings = make_settings(Namespace(**flags, preset=""))
    spent = spend(profile_step(settings, "fp32"))
    assert {"forward 3 x 3", "backward 3 x 3", "optimizer", "activations"} <= spent.keys()
    assert FORWARD not in spent
    train = OurTraining(settings, random_batch(settings), Runtime(CPU, "fp32"))
    expected = count_operations(train)
    assert sum(each.flop for each in spent.values()) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("first", [False, True])
def test_operations_of_a_convolution_and_its_gradients(groups, first):
    from timing import count_operations

    layer = torch.nn.Conv2d(8, 12, 3, groups=groups)
    # Nobody asks the first layer for its input's gradient.
    image = torch.rand(2, 8, 7, 7, requires_grad=not first)
    products = 8 // groups * 3 * 3
    forward = 2 * 5 * 5 * 12 * products * 2  # images, positions, outputs; and the additions
    assert count_operations(lambda: layer(image)) == forward
    passes = 2 if first else 3
    assert count_operations(lambda: layer(image).sum().backward()) == passes * forward


def test_a_loop_over_images_has_our_losses_and_gradients():
    import loss
    from reference import RSNA, random_batch

    settings = RSNA.make_settings({"image_size": 192, "levels": "3-5", "batch_size": 7})
    anchors = loss.anchors_of(settings)
    batch = random_batch(settings)
    has_boxes = (batch.labels >= 0).any(1)
    assert has_boxes.any()
    assert not has_boxes.all()
    loss.check(loss.random_outputs(7, len(anchors)), batch, anchors)


def test_nested_loops_have_the_score_of_the_metric():
    from search import draw_case, loop_score

    from cxr.datasets.rsna.dataset import GATE_WEIGHTS
    from cxr.methods.detector.records import Params, detect
    from cxr.metrics.kaggle_map import image_score

    rng = np.random.default_rng(1)
    scores = []
    for number in range(24):
        case = draw_case(rng, number)
        boxes = detect(case.candidates, Params(threshold=1.0), GATE_WEIGHTS).boxes
        score = loop_score(case.true.boxes.tolist(), boxes.tolist())
        scores.append(np.nan if score is None else score)
        np.testing.assert_allclose(scores[-1], image_score(case.true.boxes, boxes))
    assert np.nanmax(scores) > 0
    assert np.isnan(scores).any()


def test_decoding_and_warping_a_dicom_gives_our_sample(tmp_path):
    import augmentation
    from reference import RSNA
    from samples import training_images

    settings = RSNA.make_settings({"image_size": 256, "levels": "5-6", "workers": 0})
    augmentation.check(training_images("", tmp_path, 3, settings), 256)


def test_memory_links_images_and_writes_their_predictions(tmp_path):
    import memory
    from reference import RSNA
    from search import draw_case

    from cxr.data.predictions import read_predictions
    from cxr.datasets.rsna.synthetic import write_rsna_images
    from cxr.methods.detector.records import Candidates
    from cxr.run_folder import TaskFolder

    cases = [draw_case(np.random.default_rng(0), number) for number in range(4)]
    drawn = write_rsna_images(tmp_path / "dicoms", [0], 2, 256)
    source = tmp_path / "7" / "input" / RSNA.dataset.slug
    memory.link_images(source, drawn, cases, 21)
    tables = RSNA.dataset.read_tables(source, RSNA.make_settings({}))
    assert (len(tables.train), len(tables.test)) == (18, 3)

    task = TaskFolder(tmp_path)
    train = tables.train.assign(fold=np.arange(18) % 2)
    train.to_csv(task.table("train"), index=False)
    tables.test.to_csv(task.table("test"), index=False)
    memory.write_predictions(task, cases)
    for fold in range(2):
        folder = task.run(memory.RUN).fold(fold).valid_predictions("predictions")
        ids = [prediction.image_id for prediction in read_predictions(folder, Candidates)]
        assert ids == list(train["image_id"][fold::2])


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="sizes come from Linux's /proc"
)
def test_memory_of_a_process_is_seen():
    import memory

    sizes = memory.sizes_of(Path("/proc/self"))
    assert 0 < sizes.private < sizes.together
    assert sizes.highest > 0
    assert memory.sizes_of(Path("/proc/0")) == memory.ProcessSizes(0, 0, 0)


def test_the_cost_of_the_whole_competition(monkeypatch, capsys):
    import cost

    rsna = cost.TASKS["rsna"]
    work = cost.whole_work(rsna, rsna.settings_of({"preset": "paper"}))
    assert work == (12 * 3 * 26_684, 12 * 26_684 + 3 * 2 * 26_684 + 3 * 4 * 2 * 3_000)
    # Of the segmenter that learns from positives only these are drawn, four fifths in each fold.
    masks = cost.TASKS["pneumothorax"]
    settings = masks.settings_of({"preset": "second-segmenter"})
    assert cost.whole_work(masks, settings).trained == 5 * 44 * round(0.8 * 2_669)
    assert cost.count_hours(cost.Work(3600, 7200), cost.Cost(step=2.0, forward=0.5)) == 3.0
    table = read_table("cost", monkeypatch, capsys, *NETWORK.split(), "--share", "0.5")
    names = [what.split(",")[0].split(":")[0] for what in table]
    assert names == ["what", "---", "counted", "counted", "measured", "this CPU", "T4", "H200"]


def test_the_cost_of_another_system(monkeypatch, capsys):
    flags = ("--task", "covid", "--preset", "demo", "--batch-size", "2", "--rounds", "0")
    table = read_table("cost", monkeypatch, capsys, *flags)
    names = [what.split(",")[0].split(":")[0] for what in table]
    assert names == ["what", "---", "counted", "counted", "T4", "H200"]


def test_the_cost_of_a_data_set_of_unknown_size(monkeypatch, capsys):
    for task in ("own-boxes", "nothing"):
        with pytest.raises(SystemExit, match=f"how many images {task} has: --task rsna, "):
            read_table("cost", monkeypatch, capsys, "--task", task)


def test_the_fourth_place_learns_crops():
    import cost

    settings = cost.TASKS["pneumothorax"].settings_of({"preset": "fourth"})
    assert settings.training.image_size == 768
    assert cost.training_side(settings) == 512


def test_what_a_step_keeps_for_its_backward_pass():
    import cost
    from training_step import CPU

    from cxr.system.runtime import Runtime

    # The layer keeps its input, and the ReLU its output: 64 and 4 x 64 numbers of fp32.
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.ReLU())
    inputs = (torch.rand(1, 1, 8, 8),)
    assert cost.kept_bytes(model, inputs, Runtime(CPU, "fp32")) == 4 * (64 + 256)
    assert cost.step_memory(model, 1000) == 16 * 8 + 1000


def tiny_settings():
    from reference import RSNA

    return RSNA.make_settings(
        {
            "encoder": "resnet18",
            "weights": "none",
            "levels": "5-6",
            "channels": 16,
            "head_convs": 1,
            "image_size": 192,
        }
    )


def test_engines_without_pytorch_have_its_boxes(tmp_path):
    import edge

    settings = tiny_settings()
    edge.write_subject(tmp_path, edge.random_network(settings))
    results = edge.measure_engines(tmp_path, Namespace(rounds=1, threads=1), bf16=False)
    edge.check(results)
    rows = edge.engine_rows("resnet18", results)
    assert [row.name for row in rows] == [f"resnet18: {name}" for name in edge.ENGINES]
    assert results["PyTorch bf16"].refusal == edge.NO_BF16
    assert rows[0].ratio == 1


def test_engines_see_images_that_a_trained_network_has_not_learned(tmp_path):
    import edge

    from cxr.inference.checkpoint import save_state

    settings = tiny_settings()
    model = edge.random_network(settings).model
    run = tmp_path / "rsna" / "mine"
    (run / "fold0").mkdir(parents=True)
    (tmp_path / "rsna" / "images").mkdir()
    with pytest.raises(SystemExit, match="has no epoch"):
        edge.trained_network(run)
    checkpoint = {"task": "rsna", "config": settings.plain(), "model": model.state_dict()}
    save_state(run / "fold0" / "epoch007.pt", checkpoint)
    rows = []
    for number in range(12):
        name = f"image{number}"
        picture = np.full((64, 64), 10 * number, np.uint8)
        cv2.imwrite(str(tmp_path / "rsna" / "images" / f"{name}.png"), picture)
        rows.append({"image_id": name, "fold": number % 2, "n_boxes": int(number < 6)})
    pd.DataFrame(rows).to_csv(tmp_path / "rsna" / "train.csv", index=False)
    subject = edge.trained_network(run)
    assert subject.pictures[:, 0, 0].tolist() == [0, 20, 40]
    assert [int(picture[0, 0]) for picture in subject.calibration] == [10, 30, 50, 70, 90, 110]
    assert subject.pictures.shape == (3, 192, 192)


def test_what_each_idea_brings(pipeline, tmp_path, monkeypatch, capsys):
    import ablation

    working = link_tree(pipeline.working, tmp_path / "working")
    flags = [*map(str, pipeline.flags), "--working", str(working)]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *flags, "--compare", "tiny"])
    with pytest.raises(SystemExit) as stop:
        ablation.run_step("postprocess", ablation.ablate, ablation.__doc__)
    assert not stop.value.code, stop.value.code
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [row.split("|")[1].strip() for row in rows]
    assert names[0] == "variant"
    expected = {"as it is", "no gate", "last epoch only", "tiny", "merged with tiny"}
    assert expected | {"vote counts, too", "a rule for lone boxes, too"} <= set(names)
    assert all(row.count("|") == 5 for row in rows)


def test_the_waiting_step_and_the_tables_of_scale():
    """A gradient of the real size for every parameter; a row for each part of a table."""
    import scale
    from scale import WaitingNetwork, table_rows

    network = WaitingNetwork(64, parameters=100, seconds=0.0)
    network(torch.zeros(2, 1, 64, 64))["waited"].sum().backward()
    assert sum(weight.grad.numel() for weight in network.encoder) == 100
    names = [row.name for row in table_rows(80)]
    assert names[0] == "a table of 80 images"
    assert {"reading it", "dealing patients to folds", "an epoch's order"} <= set(names)
    assert len(scale.quick_predictions(3)) == 3
