"""Average precision by pycocotools, the field's reference."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def coco_box(box):
    """x, y, width, height of a box x1 y1 x2 y2."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def coco_average_precision(true, detections, label):
    """AP at IoU 0.5 by pycocotools, of {image_id: TrueBoxes} and {image_id: Detections}.

    Its average over recall levels is the area under the curve exactly if there is one level in the
    middle of each step of recall.
    """
    annotations = []
    results = []
    for image, name in enumerate(true, start=1):
        for box in true[name].of_class(label):
            annotation = {"image_id": image, "category_id": 1, "bbox": coco_box(box)}
            annotation |= {"id": len(annotations) + 1, "iscrowd": 0, "area": 1.0}
            annotations.append(annotation)
        of_class = detections[name].of_class(label)
        for box, score in zip(of_class.boxes, of_class.scores, strict=True):
            result = {"image_id": image, "category_id": 1, "bbox": coco_box(box), "score": score}
            results.append(result)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i + 1} for i in range(len(true))],
            "categories": [{"id": 1}],
            "annotations": annotations,
            "info": {},
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.maxDets = [1000]
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.params.recThrs = (np.arange(len(annotations)) + 0.5) / len(annotations)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][0, :, 0, 0, 0].mean()
