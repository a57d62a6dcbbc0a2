"""RSNA Pneumonia Detection Challenge (Kaggle 2018): boxes of lung opacities, and three classes of images."""

from cxr.synthetic import write_rsna
from cxr.tasks.detection_task import DetectionTask
from cxr.tasks.rsna_files import BOX_CLASSES, CLASSES, check_submission, format_submission, read_sample, read_tables

# Hundreds of images and no pretrained weights: nothing to freeze, a large learning rate, a narrow pyramid that two CPU
# cores can train, and no level 2, since the boxes are a third of the image high.
FROM_SCRATCH = {"weights": "none", "levels": "3-5", "channels": 128, "optimizer": "adamw", "weight_decay": 0.02,
                "schedule": "cosine", "clip": 1.0, "ema": 0.998, "dropout": 0.2, "divide_by": "running",
                "augmentation": "15", "head_norm": "group", "global_weight": 0.3}


class Rsna(DetectionTask):
    name = "rsna"
    slug = "rsna-pneumonia-detection-challenge"
    title = "RSNA Pneumonia Detection"
    score_name = "mAP at IoU 0.40 to 0.75"
    score_meaning = ("For every image and eight demands on how well a box must fit (overlap 40 % to 75 %), the share "
                     "of hits among hits, false boxes and missed boxes; averaged. 0 is the worst, 1 is perfect. Images "
                     "without opacity count 0 as soon as one box is drawn on them and are left out otherwise.")
    id_column = "patientId"
    class_names, box_classes = CLASSES, BOX_CLASSES
    expected_files = ("stage_2_train_images", "stage_2_test_images", "stage_2_train_labels.csv",
                      "stage_2_detailed_class_info.csv", "stage_2_sample_submission.csv")
    zip_bytes, extracted_bytes = int(3.7e9), int(3.8e9)
    gate_weights = (0.0, 0.1, 1.0)  # how much each image class speaks for boxes; the 2nd place's values
    # The best single answer that ignores the image: the two boxes of the mean positive image.
    constant_boxes, constant_scores = ((203, 335, 439, 694), (594, 328, 844, 724)), (0.6, 0.5)
    presets = {
        "paper": {},
        "small": FROM_SCRATCH | {"encoder": "resnet18", "image_size": 192, "epochs": 50, "batch_size": 8, "lr": 4e-4},
        "demo": FROM_SCRATCH | {"encoder": "resnet18", "image_size": 192, "epochs": 9, "batch_size": 8, "lr": 5e-4,
                                "channels": 64, "head_convs": 2, "size": 256},
    }
    read_tables = staticmethod(read_tables)
    read_sample = staticmethod(read_sample)
    format_submission = staticmethod(format_submission)
    check_submission = staticmethod(check_submission)
    write_synthetic = staticmethod(write_rsna)
