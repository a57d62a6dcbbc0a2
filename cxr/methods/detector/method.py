"""What every task that looks for boxes shares: network, loss, quick decoding, candidates."""

import json

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import batched_nms

from cxr.data.samplers import ResumableSampler
from cxr.data.tables import keep_classes
from cxr.geometry.anchors import (
    decode_boxes,
    encode_boxes,
    flip_index,
    make_anchors,
    parse_levels,
    scale_index,
)
from cxr.geometry.boxes import centre_size
from cxr.methods.detector.losses import detection_loss, global_loss
from cxr.methods.detector.matching import Matcher
from cxr.methods.detector.records import Candidates
from cxr.methods.detector.search import Case
from cxr.networks.retinanet import RetinaNet
from cxr.system.errors import InputError

QUICK_FLOOR, QUICK_TOP = 0.005, 100
# Hundreds of images and no pretrained weights: nothing to freeze, a large learning rate, a narrow pyramid that two CPU
# cores can train.
FROM_SCRATCH = {
    "weights": "none",
    "levels": "3-5",
    "channels": 128,
    "optimizer": "adamw",
    "weight_decay": 0.02,
    "schedule": "cosine",
    "clip": 1.0,
    "ema": 0.998,
    "dropout": 0.2,
    "divide_by": "running",
    "augmentation": "15",
    "head_norm": "group",
    "global_weight": 0.3,
}


class DetectionTask:
    """Base of a detection task; a subclass adds the facts of its data set and how it is scored."""

    plateau_term = "box"  # the validation loss that the paper's schedule watches
    by_hand = ""  # where a data set that is not on Kaggle comes from and where it belongs
    takes_submissions = True
    finding = ("box", "boxes")  # what the report calls a mark
    archives = ()  # names of its zips, which step 01 unpacks
    nms_iou = 0.05  # boxes of a class that overlap more are one finding; opacities hardly overlap
    floor = 0.01  # score of the anchors that are kept for step 05, which uses scores above 0.025
    most = 1000  # anchors that are kept of an image and class
    kind = Candidates  # what step 04 keeps of an image
    tta = ("none", "flip", "flip+scale")  # sets of views that it can undo
    logged = ("metric",)  # what step 03 prints of `quick_score` after an epoch

    def used_classes(self, config):
        """Names of the box classes of these settings. Raises InputError where there are not so many."""
        if not 0 <= config.classes <= len(self.box_classes):
            raise InputError(
                f"--classes {config.classes} does not fit {self.name}: choose 1 to "
                f"{len(self.box_classes)}, or 0 for all"
            )
        return self.box_classes[: config.classes or None]

    def select(self, table, config):
        """The table of step 02 with the boxes of the used classes only. InputError for settings of other tasks.

        Crops of the lungs would cut findings: where a lung is white, no network sees it (3 of 10 boxes of 600 RSNA
        images lost more than a tenth of their area).
        """
        wrong = [name for name in ("lungs", "pseudo", "unlabelled") if getattr(config, name)]
        if wrong:
            raise InputError(
                f"--{wrong[0]} is for tasks of masks or classes, and {self.name} looks for boxes: leave "
                "it out"
            )
        if config.tta == "flip+scale":  # said now and not after the training
            view_side(config.image_size, parse_levels(config.levels), -1)
        count = len(self.used_classes(config))
        return table if count == len(self.box_classes) else keep_classes(table, count)

    def build_model(self, config, load_weights=True):
        """RetinaNet of the settings. load_weights=False leaves random weights for a checkpoint to replace."""
        return RetinaNet(
            encoder=config.encoder,
            weights=config.weights,
            levels=config.levels,
            channels=config.channels,
            head_convs=config.head_convs,
            head_norm=config.head_norm,
            dropout=config.dropout,
            box_classes=len(self.used_classes(config)),
            image_classes=len(self.class_names),
            image_size=config.image_size,
            load_weights=load_weights,
        )

    def sampler(self, table, config, rank, world):
        """The order of the training images."""
        return ResumableSampler(len(table), config.batch_size, config.seed, True, rank, world)

    def targets(self, config):
        """Callable that the loader's processes apply to the boxes (n, 4) and classes (n,) of a sample."""
        return Matcher(make_anchors(config.image_size, parse_levels(config.levels)))

    def network_inputs(self, batch, config):
        """What the network is told in training beside the images: where a box is to be learned. A compiled one is not,
        since it would be compiled anew for every batch."""
        return () if config.compile else ((batch["positive_image"], batch["positive"]),)

    def loss(self, outputs, batch, model, config):
        """Weighted terms {'class', 'box', 'global'}; in validation always per image, whatever the batches are."""
        running = model.positives if model.training and config.divide_by == "running" else None
        terms = detection_loss(outputs["scores"], outputs["deltas"], batch, running)
        return {
            "class": config.class_weight * terms["class"],
            "box": terms["box"],
            "global": config.global_weight * global_loss(outputs["category"], batch["label"]),
        }

    def apply_view(self, images, view, model):
        """Images (B, 1, S, S) uint8 -> the same, larger by view[0] thirds of an octave, flipped if view[1]."""
        thirds, flipped = view
        if thirds:
            side = view_side(model.image_size, model.levels, thirds)
            images = F.interpolate(
                images.float(), size=(side, side), mode="bilinear", antialias=True
            )
        return images.flip(-1) if flipped else images

    def outputs(self, model, images):
        """What step 04 wants to know of images before it knows which boxes it wants."""
        outputs, maps = model.forward_scores(images)
        return outputs | {"maps": maps}

    def undo_view(self, outputs, view, model):
        """Outputs of a view, of `forward` or of `look` -> what the unchanged image's anchors would have said.

        The deltas become a function of (image (n,), anchor (n,)), integers on the CPU: those of these anchors (n, 4).
        """
        thirds, flipped = view
        side, device = view_side(model.image_size, model.levels, thirds), outputs["scores"].device
        place = torch.arange(
            outputs["scores"].shape[1]
        )  # of each anchor, the one that stands for it in the view
        if thirds:
            place = scale_index(model.image_size, side, model.levels, thirds)
        seen = (
            flip_index(side, model.levels)[place] if flipped else place
        )  # and where the network has it

        def deltas_at(image, anchor):
            if "maps" in outputs:
                deltas = model.deltas_at(outputs["maps"], image, seen[anchor])
            else:
                deltas = outputs["deltas"][image, seen[anchor]]
            if flipped:
                deltas = deltas * deltas.new_tensor([-1, 1, 1, 1])
            if thirds:
                anchors = make_anchors(side, model.levels)[place[anchor]].to(device)
                boxes = decode_boxes(deltas, anchors) * (model.image_size / side)
                deltas = encode_boxes(boxes, model.anchors[anchor.to(device)])
            return deltas

        return {
            "scores": outputs["scores"].sigmoid()[:, seen.to(device)],
            "deltas": deltas_at,
            "category": outputs["category"].softmax(-1),
        }

    def merge(self, outputs):
        """[per image: score (n,), label (n,), deltas (N, n, 4), anchor (n,), category (C,)] over N models and views.

        Mean of the probabilities; the deltas of the anchors above the floor are kept of all N for `candidates`.
        """
        outputs = list(outputs)
        scores = torch.stack([o["scores"] for o in outputs]).mean(0)
        category = torch.stack([o["category"] for o in outputs]).mean(0)
        best = [best_pairs(image_scores, self.most, self.floor) for image_scores in scores]
        counts = [len(anchor) for _, anchor, _ in best]
        image = torch.arange(len(best)).repeat_interleave(torch.tensor(counts))
        anchors = torch.cat([anchor for _, anchor, _ in best]).cpu()
        deltas = torch.stack([o["deltas"](image, anchors) for o in outputs]).split(counts, dim=1)
        return [
            {
                "score": score,
                "label": label,
                "anchor": anchor,
                "category": category[i],
                "deltas": deltas[i],
            }
            for i, (score, anchor, label) in enumerate(best)
        ]

    def candidates(self, merged, row, model, config):
        """What step 05 needs of an image, in its original pixels: see `Candidates`.

        dx, dy are averaged; of dw, dh the 20th and 80th percentile over models and views are kept (the 2nd place's
        merge: a size below most votes imitates the smaller boxes of the test labels).
        """
        deltas, anchors = merged["deltas"], model.anchors[merged["anchor"]]
        if (
            deltas.numel()
        ):  # torch.quantile refuses an empty tensor, which an image without any candidate gives
            move = deltas[..., :2].mean(0)
            low, high = (
                torch.cat([move, deltas[..., 2:].quantile(q, dim=0)], -1) for q in (0.2, 0.8)
            )
        else:
            low = high = deltas[0]
        scale = np.array([row["width"], row["height"]]) / model.image_size
        (centre, size20), (_, size80) = (centre_size(decode_boxes(part, anchors)) for part in (low, high))
        centre, size20, size80 = (
            (part.cpu().numpy() * scale).astype(np.float32) for part in (centre, size20, size80)
        )
        return Candidates(
            row["image_id"],
            int(row["width"]),
            int(row["height"]),
            merged["category"].cpu().numpy(),
            centre,
            size20,
            size80,
            merged["score"].cpu().numpy(),
            merged["label"].cpu().numpy().astype(np.int16),
        )

    def case(self, found, row, fold):
        """An out-of-fold image with its true boxes, from its row of train.csv."""
        boxes = np.array(json.loads(row["boxes"]), float).reshape(-1, 4)
        labels = np.array(json.loads(row["box_labels"]), int)
        return Case(
            found, boxes, fold, bool(row.get("test_like", False)), str(row["group"]), labels
        )

    def quick_predictions(self, outputs, batch, model):
        """{row: (boxes (n, 4) in input pixels, scores (n,), labels (n,), side)}: plain decoding and NMS, best first."""
        found = {}
        size = batch["image"].shape[-1]
        for i, row in enumerate(batch["index"].tolist()):
            score, anchor, label = best_pairs(
                outputs["scores"][i].sigmoid(), QUICK_TOP, QUICK_FLOOR
            )
            boxes = decode_boxes(outputs["deltas"][i, anchor], model.anchors[anchor]).clamp(0, size)
            keep = batched_nms(boxes, score, label, self.nms_iou)
            found[row] = (*(part[keep].cpu().numpy() for part in (boxes, score, label)), size)
        return found


def best_pairs(scores, most, floor):
    """(score, anchor, class), each (n,), of the `most` best anchors of each class above the floor, by falling score.

    scores (A, K). Classes are looked at apart, since one place may show two findings, and a common class would else
    crowd out a rare one.
    """
    score, anchor = scores.topk(min(most, len(scores)), dim=0)
    label = torch.arange(scores.shape[1], device=scores.device).expand_as(anchor)
    score, anchor, label = (part[score > floor] for part in (score, anchor, label))
    order = score.argsort(descending=True, stable=True)
    return score[order], anchor[order], label[order]


def view_side(image_size, levels, thirds):
    """Side of a view in pixels: image_size * 2^(thirds / 3), to the next multiple of the coarsest stride."""
    stride = max(2 ** levels[-1], 32)
    side = round(image_size * 2 ** (thirds / 3) / stride) * stride
    if side < 192:
        raise InputError(
            f"--tta flip+scale would shrink images of {image_size} pixels to {side}, and the network "
            "needs 192: use --tta flip"
        )
    return side
