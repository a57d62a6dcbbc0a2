"""RSNA Pneumonia Detection Challenge (Kaggle 2018): boxes of lung opacities, and three classes of images."""

from cxr.datasets.rsna.files import (
    BOX_CLASSES,
    CLASSES,
    check_submission,
    format_submission,
    read_sample,
    read_tables,
)
from cxr.datasets.rsna.synthetic import write_rsna
from cxr.datasets.submission_ids import input_folder
from cxr.methods.detector.image_scorer import (
    evaluate,
    make_rule,
    plain_rule,
    plain_score,
    quick_score,
)
from cxr.methods.detector.method import FROM_SCRATCH, DetectionTask
from cxr.system.disk import write_csv


class Rsna(DetectionTask):
    name = "rsna"
    slug = "rsna-pneumonia-detection-challenge"
    title = "RSNA Pneumonia Detection"
    answer = "submission"
    score_name = "mAP at IoU 0.40 to 0.75"
    score_meaning = (
        "For every image and eight demands on how well a box must fit (overlap 40 % to 75 %), the share "
        "of hits among hits, false boxes and missed boxes; averaged. 0 is the worst, 1 is perfect. Images "
        "without opacity count 0 as soon as one box is drawn on them and are left out otherwise."
    )
    class_names, box_classes = CLASSES, BOX_CLASSES
    expected_files = (
        "stage_2_train_images",
        "stage_2_test_images",
        "stage_2_train_labels.csv",
        "stage_2_detailed_class_info.csv",
        "stage_2_sample_submission.csv",
    )
    zip_bytes, extracted_bytes = int(3.7e9), int(3.8e9)
    gate_weights = (
        0.0,
        0.1,
        1.0,
    )  # how much each image class speaks for boxes; the 2nd place's values
    # The best single answer that ignores the image: the two boxes of the mean positive image.
    constant = ((0.6, (203, 335, 439, 694)), (0.5, (594, 328, 844, 724)))
    # From scratch without level 2, since the boxes are a third of the image high.
    presets = {
        "paper": {},
        "small": FROM_SCRATCH
        | {
            "encoder": "resnet18",
            "image_size": 256,
            "epochs": 28,
            "batch_size": 8,
            "lr": 4e-4,
            "pretrain": 1600,
            "paste": 0.4,
            "dropout": 0.5,
            "augmentation": "20",
            "weight_decay": 0.05,
            "tta": "flip+scale",
        },
        "demo": FROM_SCRATCH
        | {
            "encoder": "resnet18",
            "image_size": 192,
            "epochs": 7,
            "batch_size": 8,
            "lr": 5e-4,
            "channels": 64,
            "head_convs": 2,
            "size": 256,
        },
    }
    read_tables = staticmethod(read_tables)
    write_synthetic = staticmethod(write_rsna)

    def quick_score(self, predictions, table, config):
        return quick_score(predictions, table)

    def evaluate(self, config, cases, train):
        return evaluate(config, cases, train, self.gate_weights, self.constant)

    def rule(self, params, config):
        return make_rule(params, self.box_classes, self.gate_weights)

    def write_results(self, config, answers, cases, evaluation, warnings):
        """(path of submission.csv, checked against the sample submission, or None without test predictions, {})."""
        if answers is None:
            return None, {}
        path = config.run_dir / "submission.csv"
        sample = read_sample(input_folder(config))
        table = format_submission(
            list(sample["patientId"]), {key: found[:2] for key, found in answers.items()}
        )
        check_submission(table, sample)
        absent = len(set(sample["patientId"]) - answers.keys())
        if absent:
            warnings.append(
                f"{absent} images of the sample submission have no picture and get no boxes."
            )
        write_csv(path, table)
        return path, {}

    def plain_rule(self, params, config):
        return plain_rule(params, self.gate_weights)

    def plain_score(self, truth, found, config):
        return plain_score(truth, found)
