"""The settings that each method adds to those of `cxr/settings.py`, in the same form."""

from __future__ import annotations

from dataclasses import dataclass

from cxr.settings import MethodSettings, setting


@dataclass(frozen=True)
class SamplingSettings(MethodSettings):
    """Which images an epoch has, labelled ones and those that another run labels."""

    sampling: str = setting(
        "all",
        "images of an epoch with something to learn: all once; share: all positives and as many "
        "negatives as --positive-share leaves room for; balanced: as many draws as images, half "
        "of them positive; positives: these alone",
        training=True,
        choices=("all", "share", "balanced", "positives"),
    )
    positive_share: float = setting(
        0.8,
        "share of positives of --sampling share in the first epoch; 1: no negatives",
        training=True,
        needs="sampling=share",
    )
    positive_share_end: float = setting(
        0.0,
        "the share moves evenly towards this after the last epoch; 0: it stays",
        training=True,
        needs="sampling=share",
    )

    pseudo: str = setting(
        "",
        "a run whose boxes, masks or classes of the test images are learned, too; a fold learns "
        "what that run's models of the same fold say",
        training=True,
    )
    pseudo_ratio: float = setting(
        0.5,
        "images of --pseudo in an epoch from the second on, for each other image",
        training=True,
        needs="pseudo",
    )
    external: tuple[str, ...] = setting(
        (),
        "folders of further X-rays, in any tree, which --pseudo labels in place of the test images",
        training=True,
        needs="pseudo",
    )
    external_labels: tuple[str, ...] = setting(
        (),
        "csv files of labels of these, such as the NIH's Data_Entry_2017.csv or CheXpert's "
        "train.csv: a finding is learned where label and run agree, none where the label says so",
        training=True,
        needs="external",
    )
    external_columns: tuple[str, ...] = setting(
        (),
        "NAME=COLUMN of other such files: image=COLUMN names the file; a finding's own column "
        "holds 1, 0 or -1, or labels=COLUMN the findings with | between them",
        training=True,
        needs="external_labels",
    )


@dataclass(frozen=True)
class DetectorSettings(SamplingSettings):
    """Boxes: the pyramid, its heads, their losses, and which anchors step 04 keeps."""

    head: str = setting(
        "retinanet",
        "retinanet: anchors and offsets, as published; fcos: points and distances",
        training=True,
        choices=("retinanet", "fcos"),
    )
    levels: str = setting(
        "2-7", "pyramid levels; level 2 is the paper's addition for small boxes", training=True
    )
    channels: int = setting(
        256, "channels of the pyramid and heads; 256 as in RetinaNet", training=True
    )
    head_convs: int = setting(4, "3x3 convolutions in each head; 4 as in RetinaNet", training=True)
    head_norm: str = setting(
        "none",
        "group normalisation in the heads: none as published, group helps random weights",
        training=True,
        choices=("none", "group"),
    )
    classes: int = setting(
        0, "only the first so many box classes of the task's list; 0: all of them", training=True
    )
    dropout: float = setting(
        0.75,
        "dropout before the class and the global output; 0.75 in the best model",
        training=True,
    )
    class_weight: float = setting(
        1.0,
        "weight of the anchor class loss; 0 and --global-weight 0: boxes only",
        training=True,
    )
    box_loss: str = setting(
        "smooth_l1",
        "smooth_l1 of the distances from the anchors, as published, or giou: the generalised "
        "overlap of the boxes themselves",
        training=True,
        choices=("smooth_l1", "giou"),
        needs="head=retinanet",
    )
    score_target: str = setting(
        "one",
        "what the score of a positive anchor is to say: one, as published, or iou: how well its "
        "box fits (varifocal loss)",
        training=True,
        choices=("one", "iou"),
        needs="head=retinanet",
    )
    edge_noise: float = setting(
        0.0,
        "in training each edge of a true box moves by up to this share of the box's side, since "
        "readers differ by some 10 %",
        training=True,
    )
    divide_by: str = setting(
        "image",
        "whose positive anchors divide the detection losses: each image's as published, or their "
        "running mean, which suits random weights",
        training=True,
        choices=("image", "running"),
    )
    global_weight: float = setting(0.1, "weight of the image class loss", training=True)
    header_inputs: bool = setting(
        False,
        "age, sex and view (AP or PA) of the DICOM header as inputs of the head for the whole "
        "image; what a header does not say counts as unknown",
        training=True,
    )
    paste: float = setting(
        0.0,
        "probability that an image gets boxes of another training image, too, and what they show",
        training=True,
    )
    clahe: float = setting(
        0.0,
        "clip limit of an adaptive histogram equalisation of the pictures (CLAHE, 8 x 8 tiles), in "
        "training and prediction; 2 is usual, 0 leaves them as they are",
        training=True,
    )
    pseudo_score: float = setting(
        0.4,
        "boxes of --pseudo above it are learned, images whose best is below its half show none, "
        "and those between are left out",
        training=True,
        needs="pseudo",
    )
    nms_iou: float = setting(
        0.05, "boxes of a class that overlap more are one finding; opacities hardly overlap"
    )
    try_nms_iou: tuple[str, ...] = setting(
        (), "such overlaps that step 05 tries in place of --nms-iou, fitted like the thresholds"
    )
    gate: str = setting(
        "",
        "step 05: a run of image classes over the same images, whose out-of-fold probabilities "
        "gate the boxes in place of the detector's own or beside them, as fits best; for rsna a "
        "run of rsna-classes",
    )
    try_votes: tuple[str, ...] = setting(
        (),
        "shares of the networks and views that must have a box there, 0 to 1, that step 05 tries; "
        "0 asks for none, 1 for all",
    )
    try_lone: tuple[str, ...] = setting(
        (),
        "what step 05 tries to divide the score of a box by that half of the networks and views, "
        "or fewer, have; 1 changes nothing",
    )
    simplest: bool = setting(
        False,
        "step 05 takes the rule with the fewest ideas (gate, shrink, fusion) that is within one "
        "standard error of the best one, since what brings little may be chance",
    )
    candidate_floor: float = setting(
        0.01, "score above which step 04 keeps an anchor for step 05, which uses those above 0.025"
    )
    candidates: int = setting(1000, "anchors that step 04 keeps of an image and class")
    size_votes: str = setting(
        "fold",
        "percentiles of the sizes that networks and views vote for: within each fold, then "
        "averaged (fold), so that the shrink means the same where it is fitted and where it is "
        "used; over all of them, as published (all)",
        choices=("fold", "all"),
    )


@dataclass(frozen=True)
class MaskLearningSettings(SamplingSettings):
    """What segmenters and classifiers share: a decoder that draws."""

    decoder: str = setting(
        "unet",
        "unet (segmentation-models-pytorch's), albunet, plain (no normalisation), scse "
        "(attention), deeplab (V3+), cbam or aspp (with hypercolumns), blocks (without skips)",
        training=True,
        choices=("unet", "albunet", "plain", "scse", "deeplab", "cbam", "aspp", "blocks"),
    )
    mask_loss: str = setting(
        "bce=1,dice=1",
        "weighted terms of a segmentation loss: bce, dice, squared_dice, focal and lovasz of the "
        "mask, label and label_focal of the image",
        training=True,
    )
    lungs: str = setting(
        "", "a run of the task lungs; images are cut to the lungs that it finds", training=True
    )
    stack: tuple[str, ...] = setting(
        (),
        "further runs to mix in: their image scores decide which images get a mask, or their "
        "classes are averaged with fitted weights",
    )


@dataclass(frozen=True)
class SegmenterSettings(MaskLearningSettings):
    """Masks: the U-Net's heads, a mean teacher, and the rule from probabilities to a mask."""

    label_head: str = setting(
        "none",
        "head for the whole image of a segmentation network: none, linear, or two layers, of "
        "which the first gives as many numbers as it gets (double) or 64 (narrow)",
        training=True,
        choices=("none", "linear", "double", "narrow"),
    )
    encoder_norm: str = setting(
        "train",
        "batch norm in a segmentation network's pretrained encoder: train, or frozen as the 4th "
        "place had it",
        training=True,
        choices=("train", "frozen"),
    )
    unlabelled: str = setting(
        "",
        "a folder of PNG X-rays without labels, in any tree, from which a mean teacher teaches",
        training=True,
    )
    unlabelled_batch: int = setting(
        4, "pictures of --unlabelled in a step; 4 as published", training=True, needs="unlabelled"
    )
    consistency: float = setting(
        2.0,
        "weight of student and teacher agreeing, reached in 30 epochs",
        training=True,
        needs="unlabelled",
    )
    probability_size: int = setting(
        0, "side of the probability pictures that step 04 keeps; 0: that of the network"
    )
    rule: str = setting(
        "first",
        "how probabilities become a mask or none: first (triplet), second (image scores of "
        "--stack), third (0.5), fourth (label head and triplet), fifth (highest pixel)",
        choices=("first", "second", "third", "fourth", "fifth"),
    )
    component: int = setting(
        0, "parts of a mask of up to so many pixels are removed; the 1st place removed 100"
    )


@dataclass(frozen=True)
class ClassifierSettings(MaskLearningSettings):
    """Classes of images and studies, learned beside masks of what they rest on."""

    dropout: float = setting(0.75, "dropout before the class output", training=True)
    aux_weight: float = setting(
        10.0,
        "weight of --mask-loss beside the class loss, 10 as published; 0: no masks are learned",
        training=True,
    )
    label_smoothing: float = setting(
        0.05,
        "share of a class label that is spread over all classes; it helped the 17th place, and "
        "0.05 was the 47th's best value",
        training=True,
    )
    multilabel: bool = setting(
        False,
        "classes may hold together, each with a probability of its own; else an image has one",
        training=True,
    )
    mixup: float = setting(
        0.0,
        "alpha of mixup (arXiv 1710.09412): images and labels are mixed in pairs, with a share "
        "drawn from Beta(alpha, alpha); 0: none. The 17th place tried 1.0 and 0.65 without a gain",
        training=True,
    )
    none_output: bool = setting(
        False,
        "learn, as an output of its own, whether nothing is marked in an image; the 4th and the "
        "15th place had a network for it",
        training=True,
    )
    opacities: tuple[str, ...] = setting(
        (),
        "runs of a detection task whose boxes, fused, stand for the opacities of the images",
    )
    image_rule: str = setting(
        "plain",
        "how classes, --none-output and boxes of --opacities help each other: plain (none is their "
        "mean), third and eleventh (these places' formulas), or search (fitted on the other folds)",
        choices=("plain", "third", "eleventh", "search"),
    )
