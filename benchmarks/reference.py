"""The plain reference that benchmarks compare with: the published design, simple and right.

fp32 and NCHW, the loss in a loop over images, prediction image by image and view by view with all raw outputs kept and
merged in numpy, a DICOM decoded and warped for every sample. It uses the same network classes with the same weights,
and every benchmark asserts that it gives the results of cxr before it measures. Numbers in brackets: ../shared/specs.
"""

import json
import math

import cv2
import numpy as np
import pydicom
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn
from torchvision.ops import box_iou

from cxr.config import Config
from cxr.data.augmentation import of_pixel_centres, random_affine, visible
from cxr.data.dataset import collate
from cxr.datasets.rsna.dataset import Rsna
from cxr.geometry.anchors import PER_CELL, STD
from cxr.geometry.boxes import warp_boxes
from cxr.images.resize import resize
from cxr.networks.heads import flatten_maps
from cxr.networks.network import IMAGENET_MEAN, IMAGENET_STD

FRAME = 1024  # pixels on each side of an RSNA image


def network_config(args, **settings):
    """Config of the network that a benchmark's flags describe, without pretrained weights."""
    return Config(
        encoder=args.encoder,
        image_size=args.image_size,
        levels=args.levels,
        batch_size=args.batch_size,
        weights="none",
        save_minutes=1e9,
        **settings,
    )


def random_samples(count, side):
    """`count` smooth pictures with 0, 1, 2, 3, 4, 0 ... boxes of opacities' sizes, as the Dataset gives them."""
    generator = torch.Generator().manual_seed(0)
    pictures = F.interpolate(
        torch.rand(count, 1, 12, 12, generator=generator), size=(side, side), mode="bilinear"
    )
    samples = []
    for i, picture in enumerate(pictures):
        corner, size = (
            torch.rand(i % 5, 2, generator=generator),
            torch.rand(i % 5, 2, generator=generator),
        )
        corner, size = corner * side * 0.6, (0.1 + 0.3 * size) * side
        samples.append(
            {
                "image": (255 * picture).byte(),
                "boxes": torch.cat([corner, corner + size], 1),
                "labels": torch.zeros(i % 5, dtype=torch.long),
                "label": 2 if i % 5 else 0,
                "index": i,
            }
        )
    return samples


def random_batch(config):
    """A batch of such samples as the loader gives it, with the anchors that its processes have matched."""
    targets = Rsna().targets(config)
    return collate(
        [
            sample | targets(sample["boxes"], sample["labels"])
            for sample in random_samples(config.batch_size, config.image_size)
        ]
    )


@torch.no_grad()
def enliven(model, images, per_image=100):
    """Give random weights outputs like those of trained ones, in place: the output layers start at zero, so that all
    networks would agree, and batch norm has no statistics yet. About `per_image` scores will lie above 0.025.
    """
    score, box = model.score_head[-1], model.box_head[-1]
    for layer in (score, box):
        nn.init.normal_(layer.weight, std=0.01)
    update_bn([images], model)
    outputs = model.eval()(images)
    logits = outputs["scores"] - score.bias[0]
    factor = 0.5 / logits.std()
    score.weight *= factor
    box.weight *= 0.5 / outputs["deltas"].std()
    score.bias.fill_(
        math.log(0.025 / 0.975) - factor * logits.flatten().topk(per_image * len(images)).values[-1]
    )
    return model


def plain_forward(model, images):
    """What RetinaNet.forward gives, in fp32 and NCHW."""
    x = (images.float() / 255 - IMAGENET_MEAN) / IMAGENET_STD
    features = model.encoder(x.expand(-1, 3, -1, -1).contiguous())
    maps = model.pyramid(features)
    return {
        "scores": flatten_maps([model.score_head(x) for x in maps], model.box_classes),
        "deltas": flatten_maps([model.box_head(x) for x in maps], 4),
        "category": model.global_head(features[5]),
    }


def plain_loss(outputs, batch, anchors, global_weight=0.1):
    """Weighted terms, the mean over images of `image_loss` and the class of the whole image [rsna.md, 5]."""
    each = []
    for scores, deltas, boxes, labels in zip(
        outputs["scores"], outputs["deltas"], batch["boxes"], batch["labels"]
    ):
        real = labels >= 0  # the others fill up the batch
        each.append(image_loss(scores, deltas, anchors, boxes[real], labels[real]))
    class_loss, box_loss = (torch.stack(terms).mean() for terms in zip(*each))
    return {
        "class": class_loss,
        "box": box_loss,
        "global": global_weight * F.cross_entropy(outputs["category"], batch["label"]),
    }


def image_loss(scores, deltas, anchors, boxes, labels):
    """Focal loss over all anchors and smooth L1 over the positive ones of one image, both over its positives."""
    p = scores.sigmoid().clamp(1e-4, 1 - 1e-4)
    if len(boxes) == 0:
        return (-0.75 * p**2 * (1 - p).log()).sum(), deltas.sum() * 0
    best, index = box_iou(anchors, boxes).max(1)
    positive = best >= 0.5
    target = torch.full_like(p, -1)
    target[(best < 0.4) | positive] = 0
    target[positive, labels[index[positive]]] = 1
    p_true, alpha = torch.where(target == 1, p, 1 - p), torch.where(target == 1, 0.25, 0.75)
    focal = -alpha * (1 - p_true) ** 2 * p_true.log()
    count = positive.sum().clamp(min=1)
    class_loss = torch.where(target >= 0, focal, 0).sum() / count
    if not positive.any():
        return class_loss, deltas.sum() * 0
    anchor, box = anchors[positive], boxes[index[positive]]
    size, true_size = anchor[:, 2:] - anchor[:, :2], box[:, 2:] - box[:, :2]
    move = (box[:, :2] + true_size / 2 - anchor[:, :2] - size / 2) / size
    goal = torch.cat([move, (true_size / size).log()], 1) / torch.tensor(STD)
    return class_loss, F.smooth_l1_loss(deltas[positive], goal, beta=1 / 9, reduction="none").mean(
        1
    ).sum() / count


def plain_step(model, optimizer, batch, config):
    """One training step. Returns the loss."""
    terms = plain_loss(
        plain_forward(model, batch["image"]), batch, model.anchors, config.global_weight
    )
    loss = sum(terms.values())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    return float(loss.detach())


@torch.inference_mode()
def plain_predict(models, images, frame=FRAME, shrink=1.6):
    """[(boxes (k, 4) in pixels of the frame, scores (k,))] of images (B, 1, S, S), with the flipped view [rsna.md, 8].

    All raw outputs of all images are kept until the end, as published.
    """
    raw = [
        [outputs_of(model, image[None], flipped) for flipped in (False, True) for model in models]
        for image in images
    ]
    anchors = models[0].anchors.numpy()
    return [
        plain_boxes(*map(np.stack, zip(*views)), anchors, frame / images.shape[-1], frame, shrink)
        for views in raw
    ]


def outputs_of(model, image, flipped):
    """(probabilities (A,), deltas (A, 4)) at the anchors of the unflipped image, for one class of boxes."""
    outputs = plain_forward(model, image.flip(-1) if flipped else image)
    scores, deltas = outputs["scores"][0, :, :1].sigmoid().numpy(), outputs["deltas"][0].numpy()
    if flipped:
        side = image.shape[-1]
        scores, deltas = (unflip(part, side, model.levels) for part in (scores, deltas))
        deltas[:, 0] *= -1
    return scores[:, 0], deltas


def unflip(values, side, levels):
    """Values (A, n) of the anchors of a mirrored image in the order of the image's own anchors."""
    parts, start = [], 0
    for cells in (side // 2**level for level in levels):
        grid = values[start : start + cells**2 * PER_CELL].reshape(cells, cells, PER_CELL, -1)
        parts.append(grid[:, ::-1].reshape(-1, values.shape[1]))
        start += cells**2 * PER_CELL
    return np.concatenate(parts)


def plain_boxes(scores, deltas, anchors, scale, frame, shrink):
    """(boxes (k, 4), scores (k,)) of one image from all views: scores (N, A), deltas (N, A, 4), anchors (A, 4)."""
    score = scores.mean(0)
    low, high = (np.percentile(deltas[..., 2:], q, axis=0) for q in (20, 80))
    size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + deltas[..., :2].mean(0) * STD[:2] * size
    half = size * np.exp((low + shrink * (low - high)) * STD[2:]) / 2
    boxes = np.clip(np.concatenate([centre - half, centre + half], 1) * scale, 0, frame)
    keep = (score > 0.025) & (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    return plain_nms(boxes[keep], score[keep])


def plain_nms(boxes, scores, iou=0.05):
    """Boxes (k, 4) and scores (k,), best first, without those that overlap a better one by more than `iou`."""
    kept, waiting = [], list(np.argsort(-scores, kind="stable"))
    while waiting:
        best, *waiting = waiting
        kept.append(best)
        overlap = box_iou(torch.from_numpy(boxes[[best]]), torch.from_numpy(boxes[waiting]))[
            0
        ].tolist()
        waiting = [i for i, value in zip(waiting, overlap) if value <= iou]
    return boxes[kept], scores[kept]


def plain_sample(row, level, side, rng, warp_side=None):
    """(image (S, S) uint8, boxes (n, 4)) of one augmented training sample, from the DICOM [rsna.md, 7].

    The published code warps the decoded picture straight to the network's size. With `warp_side` (such as FRAME) it is
    warped at that size and then shrunk, which does not alias but costs more.
    """
    warp_side = warp_side or side
    picture = pydicom.dcmread(row["path"]).pixel_array.astype(np.float32) / 255
    matrix = random_affine(rng, level, FRAME)
    image = cv2.warpAffine(
        picture, of_pixel_centres(matrix * (warp_side / FRAME)), (warp_side, warp_side)
    )
    boxes = np.array(json.loads(row["boxes"])).reshape(-1, 4)
    boxes, _ = visible(warp_boxes(boxes, matrix), np.zeros(len(boxes)), FRAME)
    image = resize(np.clip(image, 0, 1) ** 2 ** rng.normal(0, level.gamma), side)
    return np.rint(255 * np.clip(plain_noise(image, level, rng), 0, 1)).astype(np.uint8), boxes * (
        side / FRAME
    )


def plain_noise(image, level, rng):
    """Coarse salt and pepper, blur, noise on (S, S) in 0 ... 1, each with its own probability."""
    if rng.random() < level.salt:
        coarse = [
            cv2.resize(part.astype(np.uint8), image.shape, interpolation=cv2.INTER_NEAREST)
            for part in (rng.random((77, 77)) < 0.01, rng.random((77, 77)) < 0.5)
        ]
        image = np.where(coarse[0] > 0, coarse[1].astype(np.float32), image)
    if rng.random() < level.noise:
        image = cv2.GaussianBlur(image, (0, 0), max(0.01, rng.uniform(0, 2)))
    if rng.random() < level.noise:
        image = image + rng.normal(0, rng.uniform(0, 0.04), image.shape)
    return image


def plain_decode(text, height, width):
    """Mask of relative, column-major run lengths, pixel by pixel."""
    mask, place, numbers = (
        np.zeros((height, width), np.uint8),
        0,
        [int(word) for word in text.split()],
    )
    for gap, length in zip(numbers[::2], numbers[1::2]):
        place += gap
        for k in range(place, place + length):
            mask[k % height, k // height] = 1
        place += length
    return mask


def plain_encode(mask):
    """Run lengths of a mask, pixel by pixel."""
    runs, before, gap, length = [], 0, 0, 0
    for pixel in mask.T.ravel().tolist():
        if pixel:
            length += 1
        elif before:
            runs += [gap, length]
            gap, length = 1, 0
        else:
            gap += 1
        before = pixel
    runs += [gap, length] if before else []
    return " ".join(map(str, runs)) if runs else "-1"


def plain_triplets(pictures, truths, tops, areas, bottoms):
    """Mean Dice (T, A, B) of every triplet, each applied to each picture of probabilities anew."""
    scores = np.zeros((len(tops), len(areas), len(bottoms)))
    for t, top in enumerate(tops):
        for a, area in enumerate(areas):
            for b, bottom in enumerate(bottoms):
                for picture, true in zip(pictures, truths):
                    mask = picture / 255 > bottom
                    if (picture / 255 > top).sum() < area:
                        mask = np.zeros_like(mask)
                    total = mask.sum() + true.sum()
                    scores[t, a, b] += 2 * (mask * true).sum() / total if total else 1
    return scores / len(pictures)
