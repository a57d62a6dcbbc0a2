"""docs/example.png: true and predicted boxes of the demo, whose drawn X-rays may be shown.

bash run_all.sh --demo && python docs/make_picture.py
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cxr.data.tables import read_table  # noqa: E402
from cxr.inspect import answer_stage, draw_stage, find_image, find_prediction  # noqa: E402
from cxr.plots.overlay import write_overlay  # noqa: E402
from cxr.run_folder import RunFolder  # noqa: E402
from cxr.system.errors import InputError  # noqa: E402
from cxr.tasks import TASKS  # noqa: E402

IMAGES = 4
SIDE = 240  # pixels of each


def main() -> None:
    task = TASKS["rsna"]
    settings = task.settings_of({"demo": True})
    run = RunFolder.of(settings.place)
    table = read_table(run.task.table("train"))
    marked = table[table["n_boxes"] > 0]["image_id"].head(IMAGES)

    pictures = []
    for image_id in marked:
        image = find_image(run, image_id)
        answer = answer_stage(task, settings, image, find_prediction(task, settings, image))
        true_boxes = np.array(json.loads(image.row["boxes"]), float)
        picture = draw_stage(image.picture, image.original, true_boxes, answer.boxes)
        pictures.append(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    path = ROOT / "docs" / "example.png"
    write_overlay(path, np.concatenate(pictures, axis=1))
    print("wrote", path)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}; `bash run_all.sh --demo` makes what this draws")
