"""Mixup, and the output for images without any box: batches and losses by hand."""

import json
import math

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from test_classifier import make_outputs_and_batch

from cxr.data.batch import collate
from cxr.data.dataset import XrayDataset
from cxr.method_settings import ClassifierSettings
from cxr.methods.classifier.losses import classifier_loss
from cxr.methods.classifier.mixup import draw_mixture, mix_batch
from cxr.setting_checks import check_values
from cxr.system.errors import InputError
from cxr.tasks import TASKS

TASK = TASKS["covid"]
METHOD = TASK.method
SETTINGS = TASK.settings_of({"mixup": 0.5, "preset": "small"})


def two_images():
    """Class 0, black, marked everywhere; class 2, gray, marked nowhere."""
    _, batch = make_outputs_and_batch([True, True])
    batch.images[1] = 200
    batch.image_labels = torch.tensor([0, 2])
    batch.masks[1] = 0
    batch.unmarked = torch.tensor([0.0, 1.0])
    return batch


def test_two_images_by_hand():
    batch = two_images()
    mixed = mix_batch(batch, 0.7, torch.tensor([1, 0]), 4)
    assert mixed.images[:, 0, 0, 0].tolist() == pytest.approx([60, 140])
    assert mixed.soft_labels[0].tolist() == pytest.approx([0.7, 0, 0.3, 0])
    assert mixed.soft_labels[1].tolist() == pytest.approx([0.3, 0, 0.7, 0])
    assert mixed.masks[:, 0, 0, 0].tolist() == pytest.approx([0.7, 0.3])
    assert mixed.unmarked.tolist() == pytest.approx([0.3, 0.7])
    assert batch.images.dtype == torch.uint8  # the batch itself is as it was

    # The loss is that of both labels, in the same shares.
    outputs, _ = make_outputs_and_batch([True, True])
    plain = ClassifierSettings(mask_loss="bce=1", aux_weight=1.0, label_smoothing=0.0)
    terms = classifier_loss(outputs, mixed, plain)
    expected = 0.5 * math.log(2) + 0.5 * math.log(6)  # 1/2 for class 0, 1/6 for class 2
    assert terms["class"].item() == pytest.approx(expected)


def test_what_one_does_not_know_both_do_not():
    batch = two_images()
    batch.mask_known = torch.tensor([True, False])
    batch.unmarked = torch.tensor([0.0, math.nan])
    mixed = mix_batch(batch, 0.7, torch.tensor([1, 0]), 4)
    assert mixed.mask_known.tolist() == [False, False]
    assert torch.isnan(mixed.unmarked).all()
    alone = mix_batch(batch, 0.7, torch.tensor([0, 1]), 4)  # each with itself
    assert alone.mask_known.tolist() == [True, False]
    assert torch.equal(alone.images, batch.images.float())


def test_the_share_follows_the_seed():
    def draw():
        torch.manual_seed(3)
        return draw_mixture(two_images(), 0.5, 4).images

    assert torch.equal(draw(), draw())
    model = METHOD.build_model(
        SETTINGS.replace(image_size=64), TASK.dataset.labels, load_weights=False
    )
    assert METHOD.prepare_batch(two_images(), model, SETTINGS).soft_labels.shape == (2, 4)
    batch = two_images()
    assert METHOD.prepare_batch(batch, model, SETTINGS.replace(mixup=0.0)) is batch


def test_mask_losses_of_yes_and_no_are_refused():
    settings = SETTINGS.replace(mask_loss="bce=1,lovasz=1")
    with pytest.raises(InputError, match="--mask-loss lovasz knows nothing: use bce, dice"):
        TASK.check(settings)
    TASK.check(settings.replace(aux_weight=0.0))
    with pytest.raises(InputError, match="--mixup must be at least 0"):
        check_values(SETTINGS.replace(mixup=-1.0))


def test_an_output_for_images_without_boxes(tmp_path):
    settings = SETTINGS.replace(none_output=True, mixup=0.0, image_size=64)
    rows = []
    for name, n_boxes in (("marked", 1), ("empty", 0), ("pseudo", math.nan)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((64, 64), np.uint8))
        row = {"image_id": name, "width": 64, "height": 64, "box_labels": "[]", "label": 0}
        rows.append(row | {"boxes": json.dumps([]), "n_boxes": n_boxes, "mask_known": True})
    dataset = XrayDataset(pd.DataFrame(rows), tmp_path, 64, METHOD.sample_content(settings))
    batch = collate([dataset[(0, row)] for row in range(3)])
    assert batch.unmarked[:2].tolist() == [0, 1]
    assert torch.isnan(batch.unmarked[2])

    model = METHOD.build_model(settings, TASK.dataset.labels, load_weights=False).eval()
    with torch.inference_mode():
        outputs = model(batch.images)
        assert outputs["none"].shape == (3,)
        logits = torch.tensor([0.0, math.log(3), 50])
        terms = classifier_loss(outputs | {"none": logits}, batch, settings.method)
        merged = METHOD.merge([METHOD.undo_view(outputs, None, model)], settings)
    assert terms["none"].item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    image = type("Image", (), {"image_id": "a", "width": 9, "height": 9})
    prediction = METHOD.to_prediction(merged[0], image, model, settings)
    assert prediction.category.shape == (4,)
    assert prediction.category.sum() == pytest.approx(1)
    assert prediction.none == pytest.approx(float(outputs["none"][0].sigmoid()))
    assert "that nothing is marked" in METHOD.describe_prediction(prediction)

    # Other networks begin with the same weights as without it.
    torch.manual_seed(0)
    with_output = METHOD.build_model(settings, TASK.dataset.labels, load_weights=False)
    torch.manual_seed(0)
    plain = METHOD.build_model(
        settings.replace(none_output=False), TASK.dataset.labels, load_weights=False
    )
    weights = with_output.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in plain.state_dict().items())
    with pytest.raises(InputError, match="--merge has runs with --none-output"):
        METHOD.merge([torch.zeros(1, 4), torch.zeros(1, 5)], settings)


def test_images_without_any_boxes_have_no_such_output():
    task = TASKS["own-classes"]
    for changes in ({"none_output": True}, {"image_rule": "third"}):
        with pytest.raises(InputError, match="are for images with boxes"):
            task.check(task.settings_of({"preset": "auto"}).replace(**changes))
