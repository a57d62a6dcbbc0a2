"""The plain reference that benchmarks compare with: the published design, simple and right.

fp32 and NCHW, the loss in a loop over images, prediction image by image and view by view with all
raw outputs kept and merged in numpy, a DICOM decoded and warped for every sample. It uses the same
network classes with the same weights, and every benchmark asserts that it gives the results of cxr
before it measures. Numbers in brackets: ../shared/specs.
"""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import pydicom
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import update_bn
from torchvision.ops import box_iou

from cxr.data.augmentation import Level, of_pixel_centres, random_affine, visible
from cxr.data.batch import Batch, Sample, collate
from cxr.geometry.anchors import PER_CELL, STD
from cxr.geometry.boxes import warp_boxes
from cxr.images.resize import resize
from cxr.methods.detector.method import as_detector
from cxr.networks.detector import DetectorNetwork
from cxr.networks.heads import flatten_maps
from cxr.settings import Settings
from cxr.tasks import TASKS

RSNA = TASKS["rsna"]
FRAME = 1024  # pixels on each side of an RSNA image
SALT_CELLS = 77  # of a side; a speck fills a cell

Outputs = dict[str, Tensor]


def network_settings(args: Namespace, **changes: Any) -> Settings:
    """Settings of the network that a benchmark's flags describe, without pretrained weights."""
    values = {
        "encoder": args.encoder,
        "image_size": args.image_size,
        "levels": args.levels,
        "batch_size": args.batch_size,
        "weights": "none",
        "save_minutes": 1e9,
    }
    return RSNA.make_settings(values | changes)


def build_network(settings: Settings) -> DetectorNetwork:
    """A network with random weights."""
    return as_detector(RSNA.method.build_model(settings, RSNA.used_labels(settings)))


def random_samples(count: int, side: int) -> list[Sample]:
    """`count` smooth pictures with 0, 1, 2, 3, 4, 0 ... boxes of opacities' sizes, as the dataset
    gives them."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 1, 12, 12, generator=generator)
    pictures = F.interpolate(coarse, size=(side, side), mode="bilinear")
    samples = []
    for i, picture in enumerate(pictures):
        boxes = i % 5
        corner = torch.rand(boxes, 2, generator=generator) * side * 0.6
        size = (0.1 + 0.3 * torch.rand(boxes, 2, generator=generator)) * side
        samples.append(
            Sample(
                image=(255 * picture).byte(),
                boxes=torch.cat([corner, corner + size], 1),
                labels=torch.zeros(boxes, dtype=torch.long),
                label=2 if boxes else 0,
                row=i,
            )
        )
    return samples


def random_batch(settings: Settings) -> Batch:
    """A batch of such samples as the loader gives it, with the anchors that its processes have
    matched."""
    make_target = RSNA.method.make_target(settings)
    assert make_target is not None  # a detector has one
    samples = random_samples(settings.training.batch_size, settings.training.image_size)
    for sample in samples:
        sample.target = make_target(sample.boxes, sample.labels)
    return collate(samples)


@torch.no_grad()
def enliven(model: DetectorNetwork, images: Tensor, per_image: int = 100) -> DetectorNetwork:
    """Give random weights outputs like those of trained ones, in place.

    The output layers start at zero, so that all networks would agree, and batch norm has no
    statistics yet. About `per_image` scores will lie above 0.025.
    """
    score_layer = last_convolution(model.score_head)
    box_layer = last_convolution(model.box_head)
    nn.init.normal_(score_layer.weight, std=0.01)
    nn.init.normal_(box_layer.weight, std=0.01)
    update_bn([images], model)
    outputs = model.eval()(images)

    # Spread of the outputs.
    bias = score_layer.bias
    assert bias is not None
    logits = outputs["scores"] - bias[0]
    factor = 0.5 / logits.std()
    score_layer.weight *= factor
    box_layer.weight *= 0.5 / outputs["deltas"].std()
    # Of the scores only the best are above 0.025.
    lowest_shown = logits.flatten().topk(per_image * len(images)).values[-1]
    bias.fill_(math.log(0.025 / 0.975) - factor * lowest_shown)
    return model


def last_convolution(tower: nn.Sequential) -> nn.Conv2d:
    layer = tower[-1]
    assert isinstance(layer, nn.Conv2d)
    return layer


# ---------------------------------------------------------------------------- training


def plain_forward(model: DetectorNetwork, images: Tensor) -> Outputs:
    """What RetinaNet.forward gives, in fp32 and NCHW."""
    x = (images.float() / 255 - model.input_mean) / model.input_std
    features = model.encoder(x.expand(-1, 3, -1, -1).contiguous())
    maps = model.pyramid(features)
    return {
        "scores": flatten_maps([model.score_head(x) for x in maps], model.box_classes),
        "deltas": flatten_maps([model.box_head(x) for x in maps], 4),
        "category": model.global_head(features[5]),
    }


def plain_loss(
    outputs: Outputs, batch: Batch, anchors: Tensor, global_weight: float = 0.1
) -> dict[str, Tensor]:
    """Weighted terms, the mean over images of `image_loss` and the class of the whole image
    [rsna.md, 5]."""
    class_losses = []
    box_losses = []
    for i in range(len(batch)):
        real = batch.labels[i] >= 0  # the others fill up the batch
        class_loss, box_loss = image_loss(
            outputs["scores"][i],
            outputs["deltas"][i],
            anchors,
            batch.boxes[i][real],
            batch.labels[i][real],
        )
        class_losses.append(class_loss)
        box_losses.append(box_loss)
    return {
        "class": torch.stack(class_losses).mean(),
        "box": torch.stack(box_losses).mean(),
        "global": global_weight * F.cross_entropy(outputs["category"], batch.image_labels),
    }


def image_loss(
    scores: Tensor, deltas: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Focal loss over all anchors and smooth L1 over the positive ones of one image, both over its
    positives.

    scores: logits (A, K). deltas: (A, 4). boxes: (n, 4) of classes labels (n,).
    """
    p = scores.sigmoid().clamp(1e-4, 1 - 1e-4)
    no_box_loss = deltas.sum() * 0
    if len(boxes) == 0:
        return (-0.75 * p**2 * (1 - p).log()).sum(), no_box_loss

    # Which anchors are to say what: -1 ignored, 0 nothing, 1 a box of the class.
    best, index = box_iou(anchors, boxes).max(1)
    positive = best >= 0.5
    target = torch.full_like(p, -1)
    target[(best < 0.4) | positive] = 0
    target[positive, labels[index[positive]]] = 1

    p_true = torch.where(target == 1, p, 1 - p)
    alpha = torch.where(target == 1, 0.25, 0.75)
    focal = -alpha * (1 - p_true) ** 2 * p_true.log()
    count = positive.sum().clamp(min=1)
    class_loss = torch.where(target >= 0, focal, 0).sum() / count
    if not positive.any():
        return class_loss, no_box_loss

    goal = plain_deltas(anchors[positive], boxes[index[positive]])
    errors = F.smooth_l1_loss(deltas[positive], goal, beta=1 / 9, reduction="none")
    return class_loss, errors.mean(1).sum() / count


def plain_deltas(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Deltas (p, 4) that make anchors (p, 4) the boxes (p, 4)."""
    size = anchors[:, 2:] - anchors[:, :2]
    true_size = boxes[:, 2:] - boxes[:, :2]
    centre = anchors[:, :2] + size / 2
    true_centre = boxes[:, :2] + true_size / 2
    move = (true_centre - centre) / size
    growth = (true_size / size).log()
    return torch.cat([move, growth], 1) / torch.tensor(STD)


def plain_step(
    model: DetectorNetwork, optimizer: Optimizer, batch: Batch, settings: Settings
) -> float:
    """One training step. Returns the loss."""
    outputs = plain_forward(model, batch.images)
    terms = plain_loss(outputs, batch, model.anchors, settings.method.global_weight)
    loss = torch.stack(list(terms.values())).sum()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.training.clip)
    optimizer.step()
    return float(loss.detach())


# -------------------------------------------------------------------------- prediction


class PlainBoxes(NamedTuple):
    """Boxes (k, 4) in pixels of the frame and scores (k,), by descending score."""

    boxes: np.ndarray
    scores: np.ndarray


class ViewOfImage(NamedTuple):
    """Probabilities (A,) and deltas (A, 4) at the anchors of the unflipped image."""

    scores: np.ndarray
    deltas: np.ndarray


@torch.inference_mode()
def plain_predict(
    models: Sequence[DetectorNetwork], images: Tensor, frame: int = FRAME, shrink: float = 1.6
) -> list[PlainBoxes]:
    """Boxes of images (B, 1, S, S), with the flipped view [rsna.md, 8].

    All raw outputs of all images are kept until the end, as published.
    """
    raw = []
    for image in images:
        views = []
        for flipped in (False, True):
            for model in models:
                views.append(outputs_of(model, image[None], flipped))
        raw.append(views)
    anchors = models[0].anchors.numpy()
    scale = frame / images.shape[-1]
    return [plain_boxes(views, anchors, scale, frame, shrink) for views in raw]


def outputs_of(model: DetectorNetwork, image: Tensor, flipped: bool) -> ViewOfImage:
    """Outputs of an image (1, 1, S, S), for one class of boxes."""
    shown = image.flip(-1) if flipped else image
    outputs = plain_forward(model, shown)
    scores = outputs["scores"][0, :, :1].sigmoid().numpy()
    deltas = outputs["deltas"][0].numpy()
    if flipped:
        side = image.shape[-1]
        scores = unflip(scores, side, model.levels)
        deltas = unflip(deltas, side, model.levels)
        deltas[:, 0] *= -1
    return ViewOfImage(scores[:, 0], deltas)


def unflip(values: np.ndarray, side: int, levels: Sequence[int]) -> np.ndarray:
    """Values (A, n) of the anchors of a mirrored image in the order of the image's own anchors."""
    values_by_level = []
    start = 0
    for level in levels:
        cells = side // 2**level
        end = start + cells**2 * PER_CELL
        grid = values[start:end].reshape(cells, cells, PER_CELL, -1)
        values_by_level.append(grid[:, ::-1].reshape(-1, values.shape[1]))
        start = end
    return np.concatenate(values_by_level)


def plain_boxes(
    views: Sequence[ViewOfImage], anchors: np.ndarray, scale: float, frame: int, shrink: float
) -> PlainBoxes:
    """Boxes of one image from all its views.

    anchors: (A, 4) in network pixels. scale: pixels of the frame in one of the network. shrink:
    how far the size goes beyond the smaller votes.
    """
    score = np.stack([view.scores for view in views]).mean(0)
    deltas = np.stack([view.deltas for view in views])
    low = np.percentile(deltas[..., 2:], 20, axis=0)
    high = np.percentile(deltas[..., 2:], 80, axis=0)

    size = anchors[:, 2:] - anchors[:, :2]
    move = deltas[..., :2].mean(0) * STD[:2] * size
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + move
    half = size * np.exp((low + shrink * (low - high)) * STD[2:]) / 2
    boxes = np.concatenate([centre - half, centre + half], 1) * scale
    boxes = np.clip(boxes, 0, frame)
    is_visible = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    keep = (score > 0.025) & is_visible
    return plain_nms(boxes[keep], score[keep])


def plain_nms(boxes: np.ndarray, scores: np.ndarray, iou: float = 0.05) -> PlainBoxes:
    """Boxes (k, 4) and scores (k,) without those that overlap a better one by more than `iou`."""
    kept = []
    waiting = list(np.argsort(-scores, kind="stable"))
    while waiting:
        best = waiting.pop(0)
        kept.append(best)
        overlap = box_iou(torch.from_numpy(boxes[[best]]), torch.from_numpy(boxes[waiting]))
        overlaps = overlap[0].tolist()
        waiting = [i for i, value in zip(waiting, overlaps, strict=True) if value <= iou]
    return PlainBoxes(boxes[kept], scores[kept])


# ---------------------------------------------------------------------------- pictures


def plain_sample(
    row: pd.Series,
    level: Level,
    side: int,
    rng: np.random.Generator,
    warp_side: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Image (S, S) uint8 and boxes (n, 4) of one augmented training sample, from the DICOM
    [rsna.md, 7].

    The published code warps the decoded picture straight to the network's size. With `warp_side`
    (such as FRAME) it is warped at that size and then shrunk, which does not alias but costs more.
    """
    warp_side = warp_side or side
    picture = pydicom.dcmread(row["path"]).pixel_array.astype(np.float32) / 255
    matrix = random_affine(rng, level, FRAME)
    warp_matrix = of_pixel_centres(matrix * (warp_side / FRAME))
    image = cv2.warpAffine(picture, warp_matrix, (warp_side, warp_side))

    boxes = np.array(json.loads(row["boxes"])).reshape(-1, 4)
    boxes, _ = visible(warp_boxes(boxes, matrix), np.zeros(len(boxes)), FRAME)

    gamma = 2 ** rng.normal(0, level.gamma)
    image = resize(np.clip(image, 0, 1) ** gamma, side)
    image = np.clip(plain_noise(image, level, rng), 0, 1)
    return np.rint(255 * image).astype(np.uint8), boxes * (side / FRAME)


def plain_noise(image: np.ndarray, level: Level, rng: np.random.Generator) -> np.ndarray:
    """Coarse salt and pepper, blur, noise on (S, S) in 0 ... 1, each with its own probability."""
    if rng.random() < level.salt:
        is_speck = enlarge(rng.random((SALT_CELLS, SALT_CELLS)) < 0.01, image.shape)
        is_white = enlarge(rng.random((SALT_CELLS, SALT_CELLS)) < 0.5, image.shape)
        image = np.where(is_speck > 0, is_white.astype(np.float32), image)
    if rng.random() < level.noise:
        image = cv2.GaussianBlur(image, (0, 0), max(0.01, rng.uniform(0, 2)))
    if rng.random() < level.noise:
        image = image + rng.normal(0, rng.uniform(0, 0.04), image.shape)
    return image


def enlarge(cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A bool picture at another size, uint8 of 0 and 1."""
    height, width = shape
    return cv2.resize(cells.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)


# ------------------------------------------------------------------------------- masks


def plain_decode(text: str, height: int, width: int) -> np.ndarray:
    """Mask of relative, column-major run lengths, pixel by pixel."""
    mask = np.zeros((height, width), np.uint8)
    numbers = [int(word) for word in text.split()]
    position = 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=False):  # "-1" is no pair
        position += gap
        for k in range(position, position + length):
            mask[k % height, k // height] = 1
        position += length
    return mask


def plain_encode(mask: np.ndarray) -> str:
    """Run lengths of a mask, pixel by pixel."""
    runs: list[int] = []
    before = 0
    gap = 0
    length = 0
    for pixel in mask.T.ravel().tolist():
        if pixel:
            length += 1
        elif before:
            runs += [gap, length]
            gap = 1
            length = 0
        else:
            gap += 1
        before = pixel
    if before:
        runs += [gap, length]
    if not runs:
        return "-1"
    return " ".join(str(number) for number in runs)


def plain_triplets(
    pictures: Sequence[np.ndarray],
    true_masks: Sequence[np.ndarray],
    tops: Sequence[float],
    areas: Sequence[int],
    bottoms: Sequence[float],
) -> np.ndarray:
    """Mean Dice (T, A, B) of every triplet, each applied to each picture of probabilities anew."""
    scores = np.zeros((len(tops), len(areas), len(bottoms)))
    for t, top in enumerate(tops):
        for a, area in enumerate(areas):
            for b, bottom in enumerate(bottoms):
                for picture, true_mask in zip(pictures, true_masks, strict=True):
                    scores[t, a, b] += plain_dice(picture, true_mask, top, area, bottom)
    return scores / len(pictures)


def plain_dice(
    picture: np.ndarray, true_mask: np.ndarray, top: float, area: int, bottom: float
) -> float:
    """Dice of one picture of probabilities (uint8, 255 for 1) under one triplet."""
    mask = picture / 255 > bottom
    if (picture / 255 > top).sum() < area:
        mask = np.zeros_like(mask)
    total = mask.sum() + true_mask.sum()
    if not total:
        return 1.0
    return float(2 * (mask * true_mask).sum() / total)
