"""Average precision by pycocotools, the field's reference."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def coco_average_precision(true, predicted, label):
    """AP at IoU 0.5 by pycocotools. Its average over recall levels is the area under the curve exactly if there is one
    level in the middle of each step of recall."""
    gt, dt = [], []
    for image, name in enumerate(true, start=1):
        boxes, labels = true[name]
        gt += [
            {
                "id": len(gt) + 1 + i,
                "image_id": image,
                "category_id": 1,
                "iscrowd": 0,
                "area": 1.0,
                "bbox": [*box[:2], *(box[2:] - box[:2])],
            }
            for i, box in enumerate(boxes[labels == label])
        ]
        boxes, scores, labels = predicted[name]
        dt += [
            {
                "image_id": image,
                "category_id": 1,
                "bbox": [*box[:2], *(box[2:] - box[:2])],
                "score": score,
            }
            for box, score in zip(boxes[labels == label], scores[labels == label])
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i + 1} for i in range(len(true))],
            "categories": [{"id": 1}],
            "annotations": gt,
            "info": {},
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(dt), "bbox")
        evaluation.params.iouThrs, evaluation.params.maxDets = np.array([0.5]), [1000]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.recThrs = (np.arange(len(gt)) + 0.5) / len(gt)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][0, :, 0, 0, 0].mean()
