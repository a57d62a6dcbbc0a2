"""The report's section on heat maps: what 07_grad_cam.py left in the run's folder, if it was run."""

import base64

import cv2

from cxr.system.disk import read_json

WIDEST = 2000  # pixels


def looked_at(run_dir):
    """{means: {place: share or None}, images: number measured, jpeg: the sheet as a data URI}, None without any."""
    folder = run_dir / "heat_maps" if run_dir else None
    if not folder or not (folder / "grad_cam.json").exists():
        return None
    content = read_json(folder / "grad_cam.json")
    sheet = cv2.imread(str(folder / "sheet.png"))
    if sheet is None:
        return None
    scale = min(1, WIDEST / sheet.shape[1])
    small = cv2.resize(sheet, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return {
        "means": content["means"],
        "images": content["images_measured"],
        "jpeg": "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode(),
    }
