"""What every task that looks for boxes shares: network, loss, quick validation, candidates."""

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import batched_nms

from cxr.boxes import centre_size, decode, encode, flip_index, make_anchors, parse_levels, scale_index
from cxr.data import scaled_boxes
from cxr.detection import Candidates
from cxr.disk import InputError
from cxr.losses import detection_loss, global_loss
from cxr.matching import Matcher
from cxr.metrics import mean_score, prefix_scores
from cxr.models.retinanet import RetinaNet

FLOOR, MOST = 0.01, 1000  # anchors of an image that are kept for step 05, which uses scores above 0.025
QUICK_FLOOR, QUICK_TOP, QUICK_NMS = 0.005, 100, 0.05  # opacities hardly overlap, hence the low IoU
QUICK_THRESHOLDS = np.geomspace(0.01, 0.9, 40)


class DetectionTask:
    """Base of a detection task; a subclass adds the facts of its data set."""

    plateau_term = "box"  # the validation loss that the paper's schedule watches

    def build_model(self, config, load_weights=True):
        """RetinaNet of the settings. load_weights=False leaves random weights for a checkpoint to replace."""
        model = RetinaNet(config.encoder, config.weights if load_weights else "none", config.levels, config.channels,
                          config.head_convs, config.head_norm, config.dropout, len(self.box_classes),
                          len(self.class_names), config.image_size)
        model.pretrained = config.weights != "none"
        return model

    def targets(self, config):
        """Callable that the loader's processes apply to the boxes (n, 4) and classes (n,) of a sample."""
        return Matcher(make_anchors(config.image_size, parse_levels(config.levels)))

    def loss(self, outputs, batch, model, config):
        """Weighted terms {'class', 'box', 'global'}; in validation always per image, whatever the batches are."""
        running = model.positives if model.training and config.divide_by == "running" else None
        terms = detection_loss(outputs["scores"], outputs["deltas"], batch, running)
        return {"class": config.class_weight * terms["class"], "box": terms["box"],
                "global": config.global_weight * global_loss(outputs["category"], batch["label"])}

    def apply_view(self, images, view, model):
        """Images (B, 1, S, S) uint8 -> the same, larger by view[0] thirds of an octave, flipped if view[1]."""
        thirds, flipped = view
        if thirds:
            side = view_side(model, thirds)
            images = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
        return images.flip(-1) if flipped else images

    def undo_view(self, outputs, view, model):
        """Raw outputs of a view -> what the unchanged image's anchors would have said."""
        thirds, flipped = view
        scores, deltas = outputs["scores"].sigmoid(), outputs["deltas"]
        side = view_side(model, thirds)
        if flipped:
            index = flip_index(side, model.levels).to(scores.device)
            scores, deltas = scores[:, index], deltas[:, index] * deltas.new_tensor([-1, 1, 1, 1])
        if thirds:
            index = scale_index(model.image_size, side, model.levels, thirds).to(scores.device)
            anchors = make_anchors(side, model.levels).to(scores.device)[index]
            boxes = decode(deltas[:, index], anchors) * (model.image_size / side)
            scores, deltas = scores[:, index], encode(boxes, model.anchors)
        return {"scores": scores, "deltas": deltas, "category": outputs["category"].softmax(-1)}

    def merge(self, outputs):
        """[per image: score (n,), label (n,), deltas (N, n, 4), anchor (n,), category (C,)] over N models and views.

        Mean of the probabilities; the deltas of the anchors above FLOOR are kept of all N for `candidates`.
        """
        scores = torch.stack([o["scores"] for o in outputs]).mean(0)
        category = torch.stack([o["category"] for o in outputs]).mean(0)
        merged = []
        for i, image_scores in enumerate(scores):
            score, label = image_scores.max(-1)
            score, anchor = score.topk(min(MOST, len(score)))
            anchor, score = anchor[score > FLOOR], score[score > FLOOR]
            merged.append({"score": score, "label": label[anchor], "anchor": anchor, "category": category[i],
                           "deltas": torch.stack([o["deltas"][i, anchor] for o in outputs])})
        return merged

    def candidates(self, merged, row, model):
        """What step 05 needs of an image, in its original pixels: see `Candidates`.

        dx, dy are averaged; of dw, dh the 20th and 80th percentile over models and views are kept (the 2nd place's
        merge: a size below most votes imitates the smaller boxes of the test labels).
        """
        deltas, anchors = merged["deltas"], model.anchors[merged["anchor"]]
        if deltas.numel():  # torch.quantile refuses an empty tensor, which an image without any candidate gives
            move = deltas[..., :2].mean(0)
            low, high = (torch.cat([move, deltas[..., 2:].quantile(q, dim=0)], -1) for q in (0.2, 0.8))
        else:
            low = high = deltas[0]
        scale = np.array([row["width"], row["height"]]) / model.image_size
        (centre, size20), (_, size80) = (centre_size(decode(part, anchors)) for part in (low, high))
        centre, size20, size80 = ((part.cpu().numpy() * scale).astype(np.float32) for part in (centre, size20, size80))
        return Candidates(row["image_id"], int(row["width"]), int(row["height"]), merged["category"].cpu().numpy(),
                          centre, size20, size80, merged["score"].cpu().numpy(),
                          merged["label"].cpu().numpy().astype(np.int16))

    def quick_predictions(self, outputs, batch, model):
        """{row: (boxes (n, 4) in input pixels, scores (n,))}: plain decoding and NMS, best first."""
        found = {}
        size = batch["image"].shape[-1]
        for i, row in enumerate(batch["index"].tolist()):
            score, label = outputs["scores"][i].sigmoid().max(-1)
            score, anchor = score.topk(min(QUICK_TOP, len(score)))
            anchor, score = anchor[score > QUICK_FLOOR], score[score > QUICK_FLOOR]
            boxes = decode(outputs["deltas"][i, anchor], model.anchors[anchor]).clamp(0, size)
            keep = batched_nms(boxes, score, label[anchor], QUICK_NMS)
            found[row] = (boxes[keep].cpu().numpy(), score[keep].cpu().numpy(), size)
        return found

    def quick_score(self, predictions, table):
        """Metric at the best of a few score thresholds, on the images it is chosen on: for curves, not for claims."""
        scores = []
        for row, (boxes, confidence, size) in predictions.items():
            prefix = prefix_scores(scaled_boxes(table.iloc[row], size, size)[0], boxes)
            scores.append(prefix[(confidence[:, None] > QUICK_THRESHOLDS).sum(0)])
        means = [mean_score(column) for column in np.array(scores).T]
        return {"metric": max(means), "threshold": float(QUICK_THRESHOLDS[int(np.argmax(means))])}


def view_side(model, thirds):
    """Side of a view in pixels: image_size * 2^(thirds / 3), to the next multiple of the coarsest stride."""
    stride = max(2 ** model.levels[-1], 32)
    side = round(model.image_size * 2 ** (thirds / 3) / stride) * stride
    if side < 192:
        raise InputError(f"--tta flip+scale would shrink images of {model.image_size} pixels to {side}, and the "
                         "network needs 192: use --tta flip")
    return side
