"""One run as a function of pictures: boxes, masks and classes, and the library's front door."""

import subprocess
import sys
from dataclasses import asdict, replace

import cv2
import numpy as np
import pydicom
import pytest
import torch
from steps import link_tree
from test_images import make_dataset, save
from tiny_task import TINY_TASK
from untrained import write_untrained_run
from xrays import png, xray

import cxr
from cxr.data.batch import SampleContent
from cxr.data.dataset import XrayDataset
from cxr.data.tables import read_table
from cxr.geometry.masks import decode_runs
from cxr.images.isolated import Reader
from cxr.images.resize import resize
from cxr.inference.predictor import Predictor
from cxr.inference.results import BoxResult, ClassResult, MaskResult
from cxr.methods.segmenter.rules import MaskRule
from cxr.run_folder import RunFolder
from cxr.steps.predict.predict_images import predict_images
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError
from cxr.tasks import TASKS


@pytest.fixture(scope="module")
def mask_settings(tmp_path_factory):
    """Of a run that looks for masks; its rule takes every pixel above a low probability."""
    rule = MaskRule(top=0.0, bottom=0.02, area=0)
    params = asdict(rule) | {"rule": "first"}
    return write_untrained_run(tmp_path_factory.mktemp("masks"), "pneumothorax", params)


@pytest.fixture(scope="module")
def class_settings(tmp_path_factory):
    """Of a run that classifies, without parameters of step 05."""
    return write_untrained_run(tmp_path_factory.mktemp("classes"), "covid", tta="flips")


@pytest.fixture
def scans(tmp_path):
    """Two X-rays of 96 x 128 and 70 x 50 pixels."""
    return [
        png(tmp_path / "in" / "a.png", xray()),
        png(tmp_path / "in" / "b.png", xray(70, 50, seed=1)),
    ]


def read_pictures(predictor, paths):
    reader = Reader()
    try:
        return [reader.read(path, predictor.sides) for path in paths]
    finally:
        reader.close()


# --- boxes


def test_boxes(tiny_run, scans, tmp_path):
    predictor = Predictor(TINY_TASK, tiny_run)
    result, _ = predictor.predict(read_pictures(predictor, scans))
    assert isinstance(result, BoxResult)
    assert (result.width, result.height) == (96, 128)
    assert result.class_names == ["box"]
    assert 0 < len(result.marked) <= len(result.detections) <= 50
    assert (np.diff(result.detections.scores) <= 0).all()
    assert result.score == result.detections.scores[0]
    assert (result.marked.scores > 0.12).all()
    assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-5)

    content = result.to_dict()
    assert list(content) == ["probabilities", "not_frontal_chest", "boxes"]
    assert len(content["boxes"]) == len(result.detections)
    x1 = content["boxes"][0]["x1"]
    assert x1 == pytest.approx(result.detections.boxes[0, 0], abs=0.006)

    result.draw(tmp_path / "drawn.png")
    drawn = cv2.imread(str(tmp_path / "drawn.png"))
    assert drawn.shape == (640, 480, 3)
    assert (drawn.max(-1) != drawn.min(-1)).any()


def test_no_pictures(tiny_run):
    assert Predictor(TINY_TASK, tiny_run).predict([]) == []


# --- masks


def test_masks(mask_settings, scans, tmp_path):
    predictor = Predictor(TASKS["pneumothorax"], mask_settings)
    assert predictor.sides == [96, 64]
    assert predictor.notes == []
    results = predictor.predict(read_pictures(predictor, scans))
    result = results[0]
    assert isinstance(result, MaskResult)
    assert result.mask.shape == (128, 96)
    assert set(np.unique(result.mask)) <= {0, 1}
    assert result.mask_probabilities.shape == (128, 96)
    assert result.mask_probabilities.dtype == np.float32
    assert np.array_equal(result.mask, (result.levels > 5).astype(np.uint8))  # 0.02 of 255
    assert result.area == result.mask.sum()
    assert 0 < result.image_score < 1
    assert results[1].mask.shape == (50, 70)

    content = result.to_dict()
    assert content["boxes"] == []
    assert content["probabilities"] == {}
    assert content["mask"]["finding"] == "Pneumothorax"
    assert content["mask"]["area"] == result.area
    assert np.array_equal(decode_runs(content["mask"]["runs"], 128, 96), result.mask)
    result.draw(tmp_path / "drawn.png")
    assert cv2.imread(str(tmp_path / "drawn.png")).shape == (640, 480, 3)


def test_a_mask_is_the_mean_over_folds_and_views(mask_settings, scans):
    task = TASKS["pneumothorax"]
    predictor = Predictor(task, mask_settings)
    [picture] = read_pictures(predictor, scans[:1])
    image = torch.from_numpy(picture.network.copy())[None, None]
    maps = []
    with torch.inference_mode():
        for model in predictor.networks.models:
            maps.append(model(image)["mask"].sigmoid()[0, 0])
            maps.append(model(image.flip(-1))["mask"].sigmoid().flip(-1)[0, 0])
    mean = torch.stack(maps).mean(0).numpy()
    levels = cv2.resize(np.round(255 * mean).astype(np.uint8), (96, 128))
    [result] = predictor.predict([picture])
    assert np.abs(result.levels.astype(int) - levels).max() <= 1


def test_a_mask_of_nothing(mask_settings, scans, tmp_path):
    """The rule without parameters finds nothing in what untrained networks say."""
    run = RunFolder.of(mask_settings.place)
    hidden = run.judged().params.rename(run.judged().params.with_suffix(".hidden"))
    try:
        predictor = Predictor(TASKS["pneumothorax"], mask_settings)
    finally:
        hidden.rename(run.judged().params)
    assert "step 05 was not run" in predictor.notes[0]
    [result] = predictor.predict(read_pictures(predictor, scans[:1]))
    assert result.area == 0
    assert result.outlines() == []
    assert result.to_dict()["mask"]["runs"] == "-1"
    result.draw(tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").exists()


def test_masks_of_a_folder(mask_settings, scans, tmp_path):
    out = tmp_path / "out"
    uids = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.4.5"}
    save(scans[0].with_name("c.dcm"), make_dataset(xray(80, 60), **uids))
    settings = mask_settings.replace(images=(str(scans[0].parent),), out=out, dicom_seg=True)
    page = predict_images(TASKS["pneumothorax"], settings).read_text()
    assert "3 X-rays, 3 with a mask" in page
    assert 'id="thresholds"' not in page
    content = read_json(out / "predictions.json")
    assert content["result"] == "mask"
    for image in content["images"]:
        mask = cv2.imread(str(out / image["mask"]["file"]), cv2.IMREAD_GRAYSCALE)
        assert mask.shape == (image["height"], image["width"])
        assert np.count_nonzero(mask) == image["mask"]["area"]
        assert set(np.unique(mask)) <= {0, 255}
    header, *rows = (out / "predictions.csv").read_text().splitlines()
    assert header == "image,path,width,height,finding,score,area,share,file,not_frontal_chest"
    assert len(rows) == 3

    segmentation = pydicom.dcmread(out / "segmentations" / "c.dcm.dcm")
    mask = cv2.imread(str(out / "masks" / "c.dcm.png"), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(segmentation.pixel_array * 255, mask)
    failed = (out / "failed.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in failed[1:]] == ["a.png", "b.png"]
    assert all(line.endswith("segmentation,not a DICOM") for line in failed[1:])


# --- classes


def test_classes(class_settings, scans, tmp_path):
    task = TASKS["covid"]
    predictor = Predictor(task, class_settings)
    result, _ = predictor.predict(read_pictures(predictor, scans))
    assert isinstance(result, ClassResult)
    assert tuple(result.probabilities) == task.dataset.image_classes == predictor.image_classes
    assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert result.score == max(result.probabilities.values())
    assert result.probabilities[result.best_class] == result.score
    content = result.to_dict()
    assert content["boxes"] == []
    assert "mask" not in content
    result.draw(tmp_path / "drawn.png")
    assert cv2.imread(str(tmp_path / "drawn.png")).shape == (640, 480, 3)


def test_classes_of_a_folder(class_settings, scans, tmp_path):
    out = tmp_path / "out"
    settings = class_settings.replace(images=(str(scans[0].parent),), out=out)
    page = predict_images(TASKS["covid"], settings).read_text()
    assert "<h1>2 X-rays</h1>" in page
    header, *rows = (out / "predictions.csv").read_text().splitlines()
    columns = [f"probability of {name}" for name in TASKS["covid"].dataset.image_classes]
    columns = ["image", "path", "width", "height", *columns, "not_frontal_chest"]
    assert header == ",".join(columns)
    assert len(rows) == 2


def test_pictures_are_cut_to_the_lungs_as_in_training(tmp_path, scans):
    """Whole, where the finder of the lungs sees none; and the result is in original pixels."""
    write_untrained_run(tmp_path, "lungs", run="finder", image_size=64)
    settings = write_untrained_run(tmp_path, "pneumothorax", lungs="finder")
    predictor = Predictor(TASKS["pneumothorax"], settings)
    assert predictor.sides == [96]
    pictures = read_pictures(predictor, scans)
    predictor.networks.lung_finder.find_box = lambda *_: (24, 32, 72, 96)
    seen = predictor.networks.to_network(pictures[0])
    assert seen.crop == (24, 32, 72, 96)
    assert np.array_equal(seen.image, resize(resize(pictures[0].network[24:72, 24:72], 96), 64))
    result = predictor.predict(pictures[:1])[0]
    outside = result.levels.copy()
    outside[30:98, 22:74] = 0
    assert not outside.any()
    assert result.levels[40:88, 30:66].all()

    task_folder = RunFolder.of(settings.place).task
    task_folder.crops("finder").write_text("image_id\n")
    write_json(task_folder.crops_record("finder"), {"checkpoints": {"fold0/epoch001.pt": 1}})
    with pytest.raises(InputError, match=r"crops-finder.csv was made by other networks"):
        _ = Predictor(TASKS["pneumothorax"], settings).sides


# --- the front door


def test_open_run_predicts_files_and_arrays(mask_settings, scans):
    run = cxr.open_run(RunFolder.of(mask_settings.place).path, device="cpu", precision="fp32")
    assert run.task == "pneumothorax"
    assert run.findings == ("Pneumothorax",)
    assert run.image_classes == ()
    assert run.notes == []
    one = run.predict(scans[0])
    assert isinstance(one, MaskResult)
    every = run.predict([str(path) for path in scans])
    assert [result.width for result in every] == [96, 70]
    pixels, header = cxr.read_image(scans[0])
    assert pixels.shape == (128, 96) == (header.height, header.width)
    again = run.predict(pixels)
    assert np.array_equal(again.levels, one.levels)
    assert np.abs(every[0].levels.astype(int) - one.levels).max() <= 1
    assert run.predict([]) == []


def test_open_run_with_other_views_and_one_fold(mask_settings):
    path = RunFolder.of(mask_settings.place).path
    run = cxr.open_run(str(path), fold=1, tta="none", device="cpu")
    assert [each.parent.name for each in run.predictor.networks.checkpoints] == ["fold1"]
    assert len(run.predictor.networks.views) == 1
    with pytest.raises(InputError, match="--tta flips is not for a segmenter"):
        cxr.open_run(path, tta="flips")
    with pytest.raises(InputError, match="--fold 7 does not exist"):
        cxr.open_run(path, fold=7)


def test_open_run_of_something_else(tmp_path, mask_settings):
    with pytest.raises(InputError, match="holds no trained fold: give the folder of a run"):
        cxr.open_run(tmp_path)
    run = cxr.open_run(RunFolder.of(mask_settings.place).path, device="cpu")
    with pytest.raises(InputError, match=r"gone.png"):
        run.predict(tmp_path / "gone.png")
    with pytest.raises(InputError, match="is no gray picture"):
        run.predict(np.zeros((4, 4, 3), np.uint8))


def test_importing_the_package_loads_nothing_heavy():
    script = (
        "import sys, cxr; heavy = {'torch', 'cv2', 'numpy', 'pandas'}; "
        "assert not heavy & set(sys.modules); assert cxr.__version__; "
        "assert 'rsna' in cxr.TASKS; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cxr.nothing


# --- what networks see beside the plain picture


def test_pictures_are_equalised_and_headers_read_as_in_training(tiny_run, tmp_path):
    """Of a stored picture as `--images` sees it, and as step 04 reads it from its table."""
    working = link_tree(tiny_run.place.working, tmp_path / "working")
    settings = tiny_run.replace(working=working)
    run = RunFolder.of(settings.place)
    for number in range(2):
        fold = run.fold(number)
        config = fold.read_config() | {"clahe": 2.0, "header_inputs": True}
        fold.config.unlink()
        write_json(fold.config, config)
    predictor = Predictor(TINY_TASK, settings)
    assert predictor.sides == [64]
    networks = predictor.networks
    [picture] = read_pictures(predictor, [run.task.image("test000")])
    seen = networks.to_network(picture).image
    content = SampleContent(annotated=False)
    table = read_table(run.task.table("test"))
    dataset = XrayDataset(table, run.task.images, len(seen), content, clahe=2.0)
    assert np.array_equal(seen, dataset[(0, 0)].image[0].numpy())

    header = replace(picture.header, age=25.0, sex="F", view="PA")
    [numbers] = networks.headers_of([replace(picture, header=header)])
    assert numbers.tolist() == [-0.5, 1, -1, -1]
    assert not networks.headers_of([picture]).any()
