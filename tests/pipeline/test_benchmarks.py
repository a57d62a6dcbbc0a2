"""The benchmarks' references give the results of cxr, and each script runs to its end on something tiny."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from steps import link_tree

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NETWORK = ("--encoder", "resnet18", "--image-size", "192", "--levels", "5-6", "--rounds", "1")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """The folder from which the scripts import one another; PyTorch's threads and OpenCV's as they were afterwards."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    torch.set_num_threads(threads)


def table(name, monkeypatch, capsys, *flags):
    """Cells of the one table that a script prints, {first cell: the others}."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
    __import__(name).main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[0] == "| what | value | ratio | to reach | reached |"
    return {
        cells[0]: cells[1:]
        for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    }


@pytest.mark.parametrize(
    "name, flags, rows",
    [
        (
            "training_step",
            (*NETWORK, "--images", "4"),
            ("reference", "ours", "limit", "share", "loader"),
        ),
        ("prediction", (*NETWORK, "--models", "1"), ("reference", "ours", "limit", "share")),
        (
            "augmentation",
            (*NETWORK, "--images", "3", "--step-seconds", "1"),
            ("reference", "ours", "one training step"),
        ),
        ("loss", NETWORK[2:], ("reference", "ours")),
        (
            "search",
            (
                "--images",
                "12",
                "--sampled-images",
                "3",
                "--sampled-combinations",
                "4",
                "--rounds",
                "1",
            ),
            ("published values", "whole grid"),
        ),
        (
            "preprocessing",
            ("--images", "3", "--rounds", "1"),
            ("limit", "reference", "ours", "step 02, two workers"),
        ),
        (
            "masks",
            ("--images", "50", "--rounds", "1"),
            ("reading run lengths: ours", "writing them: ours", "Dice of"),
        ),
    ],
)
def test_scripts_print_their_table(name, flags, rows, monkeypatch, capsys):
    found = table(name, monkeypatch, capsys, *flags)
    for row in rows:
        assert any(what.startswith(row) for what in found), row
    judged = [cells for cells in found.values() if cells[-1] in ("yes", "NO")]
    assert judged and all(cells[2] for cells in judged)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("first", [False, True])
def test_operations_of_a_convolution_and_its_gradients(groups, first):
    from timing import operations

    layer = torch.nn.Conv2d(8, 12, 3, groups=groups)
    image = torch.rand(
        2, 8, 7, 7, requires_grad=not first
    )  # nobody asks the first layer for its input's gradient
    forward = (
        2 * 5 * 5 * 12 * (8 // groups * 3 * 3) * 2
    )  # images, places, outputs, products; and the additions
    assert operations(lambda: layer(image)) == forward
    assert operations(lambda: layer(image).sum().backward()) == (2 if first else 3) * forward


def test_a_loop_over_images_has_our_losses_and_gradients():
    import loss
    from reference import random_batch

    from cxr.config import Config
    from cxr.datasets.rsna.dataset import Rsna

    config = Config(image_size=192, levels="3-5", batch_size=7)
    anchors, batch = Rsna().targets(config).anchors, random_batch(config)
    assert (batch["labels"] >= 0).any() and not (batch["labels"] >= 0).any(
        1
    ).all()  # with and without boxes
    loss.check(loss.random_outputs(7, len(anchors)), batch, anchors)


def test_nested_loops_have_the_score_of_the_metric():
    from search import draw_case, loop_score

    from cxr.datasets.rsna.dataset import Rsna
    from cxr.methods.detector.records import Params, detect
    from cxr.metrics.kaggle_map import image_score

    rng, scores = np.random.default_rng(1), []
    for case in (draw_case(rng, number) for number in range(24)):
        boxes = detect(case.candidates, Params(threshold=1.0), Rsna.gate_weights)[0]
        score = loop_score(case.boxes.tolist(), boxes.tolist())
        scores.append(np.nan if score is None else score)
        np.testing.assert_allclose(scores[-1], image_score(case.boxes, boxes))
    assert np.nanmax(scores) > 0 and np.isnan(scores).any()


def test_decoding_and_warping_a_dicom_gives_our_sample(tmp_path):
    import augmentation
    from samples import training_images

    from cxr.config import Config

    augmentation.check(
        training_images("", tmp_path, 3, Config(image_size=256, levels="5-6", workers=0))
    )


def test_memory_links_images_and_writes_their_predictions(tmp_path):
    import memory
    from search import draw_case

    from cxr.datasets.rsna.dataset import Rsna
    from cxr.datasets.rsna.synthetic import write_rsna_images
    from cxr.inference.predictions import read_predictions
    from cxr.methods.detector.records import Candidates

    cases = [draw_case(np.random.default_rng(0), number) for number in range(4)]
    drawn = write_rsna_images(tmp_path / "dicoms", [0], 2, 256)
    source = tmp_path / "7" / "input" / Rsna.slug
    memory.link_images(source, drawn, cases, 21)
    train, test, _ = Rsna.read_tables(source)
    assert (len(train), len(test)) == (18, 3)
    for name, rows in (("train", train.assign(fold=np.arange(18) % 2)), ("test", test)):
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    memory.write_predictions(tmp_path, cases)
    for fold in range(2):
        folder = tmp_path / memory.RUN / f"fold{fold}" / "valid_predictions"
        ids = [found.image_id for found in read_predictions(folder, Candidates)]
        assert ids == list(train["image_id"][fold::2])


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="sizes come from Linux's /proc"
)
def test_memory_of_a_process_is_seen():
    import memory

    together, private, highest = memory.sizes_of(Path("/proc/self"))
    assert 0 < private < together and highest > 0
    assert memory.sizes_of(Path("/proc/0")) == (0, 0, 0)


def test_the_cost_of_the_whole_competition(monkeypatch, capsys):
    import cost

    work = cost.whole_work()
    assert work == (12 * 3 * 26_684, 12 * 26_684 + 3 * 2 * 26_684 + 3 * 4 * 2 * 3_000)
    assert cost.hours(cost.Work(3600, 7200), step=2.0, forward=0.5) == 3.0
    found = table("cost", monkeypatch, capsys, *NETWORK, "--share", "0.5")
    assert [what.split(",")[0].split(":")[0] for what in found] == [
        "what",
        "---",
        "measured",
        "counted",
        "this CPU",
        "T4",
        "H200",
    ]


def test_what_a_step_keeps_for_its_backward_pass():
    import cost

    layer = torch.nn.Conv2d(
        1, 4, 1
    )  # keeps its input, and the ReLU its output: 64 and 4 x 64 numbers of fp32
    model = torch.nn.Sequential(layer, torch.nn.ReLU())
    assert cost.kept_bytes(model, (torch.rand(1, 1, 8, 8),), "fp32") == 4 * (64 + 256)
    assert cost.step_memory(model, 1000) == 16 * 8 + 1000


def test_what_each_idea_brings(pipeline, tmp_path, monkeypatch, capsys):
    working = link_tree(pipeline.working, tmp_path / "working")
    monkeypatch.setattr(
        sys, "argv", ["ablation.py", *map(str, pipeline.flags), "--working", str(working)]
    )
    import ablation

    with pytest.raises(SystemExit) as stop:
        ablation.run_step(ablation.step, ablation.__doc__, ablation.TASKS)
    assert not stop.value.code, stop.value.code
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [row.split("|")[1].strip() for row in rows]
    assert names[0] == "variant" and {"as it is", "no gate", "last epoch only"} <= set(names)
    assert all(row.count("|") == 5 for row in rows)
