"""Masks beside pictures: they move together through crops and every augmentation."""

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr.data.annotated_image import AnnotatedImage
from cxr.data.augmentation import LevelAugmentation
from cxr.data.batch import SampleContent, collate
from cxr.data.dataset import XrayDataset
from cxr.data.mask_augmentation import RECIPES, MaskAugmentation
from cxr.geometry.masks import dice

NO_BOXES = np.zeros((0, 4))
NO_LABELS = np.zeros(0, np.int64)
CROPS = ((61, 31, 281, 181), (150, 90, 290, 200))


def annotate(image, mask=None):
    return AnnotatedImage(image, NO_BOXES, NO_LABELS, mask)


def draw_disc(side, centre, radius):
    """A mask of 0 and 1."""
    return cv2.circle(np.zeros((side, side), np.uint8), centre, radius, 1, -1)


@pytest.mark.parametrize("level", ["10", "15", "20"])
def test_masks_move_with_the_image(level):
    mask = draw_disc(128, (40, 50), 25)
    for seed in range(5):
        augment = LevelAugmentation(level, 64)
        changed = augment(annotate(255 * mask, mask), np.random.default_rng(seed))
        assert changed.mask.shape == (64, 64)
        assert set(np.unique(changed.mask)) <= {0, 1}
        white = cv2.medianBlur(changed.image, 5) > 100
        assert dice(white, changed.mask) > 0.9


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_of_the_winners(recipe):
    mask = draw_disc(192, (90, 90), 50)
    annotated = annotate(200 * mask, mask)
    size = 64 if recipe == "fourth" else 96
    augment = MaskAugmentation(recipe, 96)
    for seed in range(8):
        changed = augment(annotated, np.random.default_rng(seed))
        again = augment(annotated, np.random.default_rng(seed))
        assert changed.image.shape == changed.mask.shape == (size, size)
        assert set(np.unique(changed.mask)) <= {0, 1}
        assert np.array_equal(changed.image, again.image)
        assert np.array_equal(changed.mask, again.mask)
        # The third cuts a square out of both, the seventeenth adds strong noise.
        if changed.mask.any() and recipe not in ("third", "seventeenth"):
            assert dice(changed.image > 90, changed.mask) > 0.85


def test_published_augmentation_is_repeatable():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (80, 80), dtype=np.uint8)
    mask = (rng.random((80, 80)) > 0.5).astype(np.uint8)
    annotated = annotate(image, mask)
    first = MaskAugmentation("seventeenth", 64)(annotated, np.random.default_rng(1))
    again = MaskAugmentation("seventeenth", 64)(annotated, np.random.default_rng(1))
    other = MaskAugmentation("seventeenth", 64)(annotated, np.random.default_rng(2))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert first.mask.shape == (64, 64)
    assert set(np.unique(first.mask)) <= {0, 1}


def make_opacity_table(folder, crop=None, **columns):
    """One original of 300 x 200 pixels, stored at 150 x 150, white inside its box."""
    picture = np.zeros((150, 150), np.uint8)
    picture[45:90, 60:100] = 255  # of the original: 120 to 200, 60 to 120
    cv2.imwrite(str(folder / "a.png"), picture)
    row = {
        "image_id": "a",
        "width": 300,
        "height": 200,
        "boxes": "[[120, 60, 200, 120]]",
        "box_labels": "[0]",
        "label": 1,
        "mask_known": True,
    }
    if crop is not None:
        row |= dict(zip(("crop_x1", "crop_y1", "crop_x2", "crop_y2"), crop, strict=True))
    return pd.DataFrame([row | columns])


@pytest.mark.parametrize("crop", [None, *CROPS])
@pytest.mark.parametrize("augmentation", ["1", "15", "seventeenth"])
def test_the_mask_lies_where_the_picture_shows_the_opacity(tmp_path, crop, augmentation):
    """The 17th place cut picture and mask by different boxes, and resized masks to gray."""
    table = make_opacity_table(tmp_path, crop)
    content = SampleContent(mask="boxes", crop=crop is not None)
    dataset = XrayDataset(table, tmp_path, 96, content, augmentation=augmentation)
    if augmentation == "seventeenth":  # noise and holes would hide the box
        recipe = dataset.augment.transforms
        recipe.transforms = recipe.transforms[:4]
    for epoch in range(4):
        sample = dataset[(epoch, 0)]
        white = sample.image[0].numpy() > 100
        mask = sample.mask[0].numpy()
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}
        assert (white != mask.astype(bool)).mean() < 0.03
        assert sample.mask_known is True


def test_unknown_is_not_empty(tmp_path):
    known = make_opacity_table(tmp_path)
    unknown = make_opacity_table(tmp_path, boxes="[]", box_labels="[]", mask_known=False)
    table = pd.concat([known, unknown])
    dataset = XrayDataset(table, tmp_path, 64, SampleContent(mask="boxes"))
    batch = collate([dataset[(0, 0)], dataset[(0, 1)]])
    assert batch.mask_known.tolist() == [True, False]
    assert batch.masks.shape == (2, 1, 64, 64)
    assert not batch.masks[1].any()
