"""The benchmarks' references give the results of cxr; each script runs to its end on something
tiny."""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
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

    work = cost.whole_work()
    assert work == (12 * 3 * 26_684, 12 * 26_684 + 3 * 2 * 26_684 + 3 * 4 * 2 * 3_000)
    assert cost.count_hours(cost.Work(3600, 7200), cost.Cost(step=2.0, forward=0.5)) == 3.0
    table = read_table("cost", monkeypatch, capsys, *NETWORK.split(), "--share", "0.5")
    names = [what.split(",")[0].split(":")[0] for what in table]
    assert names == ["what", "---", "measured", "counted", "this CPU", "T4", "H200"]


def test_what_a_step_keeps_for_its_backward_pass():
    import cost
    from training_step import CPU

    from cxr.system.runtime import Runtime

    # The layer keeps its input, and the ReLU its output: 64 and 4 x 64 numbers of fp32.
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.ReLU())
    inputs = (torch.rand(1, 1, 8, 8),)
    assert cost.kept_bytes(model, inputs, Runtime(CPU, "fp32")) == 4 * (64 + 256)
    assert cost.step_memory(model, 1000) == 16 * 8 + 1000


def test_engines_without_pytorch_have_its_boxes(tmp_path):
    import edge
    from reference import RSNA

    settings = RSNA.make_settings(
        {
            "encoder": "resnet18",
            "weights": "none",
            "levels": "5-6",
            "channels": 16,
            "head_convs": 1,
            "image_size": 192,
        }
    )
    edge.write_network(tmp_path, settings)
    results = edge.measure_engines(tmp_path, Namespace(rounds=1, threads=1), bf16=False)
    edge.check(results)
    rows = edge.engine_rows("resnet18", results)
    assert [row.name for row in rows] == [f"resnet18: {name}" for name in edge.ENGINES]
    assert results["PyTorch bf16"].refusal == edge.NO_BF16
    assert rows[0].ratio == 1


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
