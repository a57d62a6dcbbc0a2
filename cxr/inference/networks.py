"""Networks as a function of pictures: what step 04 would keep of them.

Those of one run are merged over folds, checkpoints and views; the runs of a blend are mixed as step
04 mixes what it kept of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cxr.images.equalize import equalize
from cxr.images.header_numbers import header_numbers
from cxr.images.isolated import Picture
from cxr.images.resize import resize
from cxr.inference.blend import Blend, blend_settings, member_settings
from cxr.inference.checkpoint import fingerprints
from cxr.inference.engines import Engine, choose_engine
from cxr.inference.lung_crops import LungFinder, cut_to_box, refuse_other_lungs
from cxr.inference.run import as_trained, fold_checkpoints, load_model, predict_batch, views_of
from cxr.methods.base import ImageFacts
from cxr.networks.network import Network
from cxr.run_folder import RunFolder
from cxr.settings import Settings
from cxr.system.disk import read_json
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime
from cxr.tasks import Task


class NetworkImage(NamedTuple):
    """What the networks see of a picture: (S, S) uint8, and the crop of the original that it is."""

    image: np.ndarray
    crop: tuple[int, int, int, int] | None


class Networks(ABC):
    """Base of RunNetworks and BlendNetworks."""

    @property
    @abstractmethod
    def sides(self) -> list[int]:
        """Sides of the squares that a picture becomes on its way to `predict`.

        The first is that of step 02's PNGs. The second, of the network's input, is missing where
        the lungs are cut out or the picture is equalised in between, or where networks of several
        sides see it.
        """

    @abstractmethod
    def predict(self, pictures: Sequence[Picture]) -> list[Any]:
        """What step 04 keeps of each picture, which was read with these sides."""

    @abstractmethod
    def heat_maps(self, pictures: Sequence[Picture], labels: Sequence[int]) -> list[np.ndarray]:
        """Where a classifier's networks looked: the mean of their maps of a class of each picture.

        labels: the classes. Maps (s, s) in 0 ... 1 of whole pictures, s as in `Picture.network`.
        """

    @abstractmethod
    def record(self, run: RunFolder) -> dict[str, Any]:
        """What decides the predictions, as JSON's own types; paths as seen from `run`."""

    @abstractmethod
    def describe(self) -> str:
        """Words for the console."""


def open_networks(
    task: Task, settings: Settings, folds: Sequence[int], runtime: Runtime
) -> Networks:
    """Those of the run that the settings name. Raises InputError where they are not there."""
    blend = Blend.read(RunFolder.of(settings.place))
    if blend is None:
        return RunNetworks(task, settings, folds, runtime)
    return BlendNetworks(task, settings, folds, runtime, blend)


class RunNetworks(Networks):
    """The kept checkpoints of some folds of a run, merged."""

    def __init__(
        self, task: Task, settings: Settings, folds: Sequence[int], runtime: Runtime
    ) -> None:
        self.task = task
        self.run = RunFolder.of(settings.place)
        self.views = views_of(task.method, settings.prediction)
        self.checkpoints = []
        for fold in folds:
            self.checkpoints += fold_checkpoints(task, settings, fold)
        self.settings = as_trained(settings, task, self.run.fold(folds[0]))
        self.runtime = runtime

    @cached_property
    def models(self) -> list[Network]:
        """The networks, loaded when they are first needed."""
        return [load_model(self.task, path, self.runtime.device) for path in self.checkpoints]

    @cached_property
    def engine(self) -> Engine:
        """What computes the networks, chosen when it is first needed."""
        asked = self.settings.machine.engine
        chosen = choose_engine(asked, self.models, self.task.method, self.runtime)
        if chosen.note:
            self.runtime.say(chosen.note)
        return chosen.engine

    @cached_property
    def lung_finder(self) -> LungFinder | None:
        """What cuts the images to their lungs, where the run was trained with --lungs."""
        lungs = self.settings.method.lungs
        if not lungs:
            return None
        refuse_other_lungs(self.run.task, lungs)
        working = self.run.task.path.parent
        return LungFinder.of_run(working, lungs, self.runtime.device)

    @cached_property
    def first_config(self) -> dict[str, Any]:
        """The settings of the training that gave the first checkpoint."""
        return read_json(self.checkpoints[0].with_name("config.json"))

    @cached_property
    def sides(self) -> list[int]:
        record = self.run.task.preprocess_record
        prepared = read_json(record) if record.exists() else self.first_config  # of a moved run
        stored_side = int(prepared["size"])
        if self.lung_finder is not None or self.settings.method.clahe:
            return [stored_side]
        return [stored_side, self.models[0].image_size]

    def record(self, run: RunFolder) -> dict[str, Any]:
        return {
            "checkpoints": fingerprints(self.checkpoints, run.path),
            "tta": self.settings.prediction.tta,
        }

    def describe(self) -> str:
        words = f"{len(self.checkpoints)} checkpoints, views {self.settings.prediction.tta}"
        if self.engine.name:
            return f"{words}, by {self.engine.name}"
        return words

    def predict(self, pictures: Sequence[Picture]) -> list[Any]:
        method = self.task.method
        seen = [self.to_network(picture) for picture in pictures]
        merged = predict_batch(
            self.models,
            method,
            self.views,
            self.to_batch(seen),
            self.settings,
            self.runtime,
            self.engine,
            self.headers_of(pictures),
        )
        predictions = []
        for picture, outputs, each in zip(pictures, merged, seen, strict=True):
            facts = ImageFacts("", picture.width, picture.height, each.crop)
            prediction = method.to_prediction(outputs, facts, self.models[0], self.settings)
            predictions.append(prediction)
        return predictions

    def heat_maps(self, pictures: Sequence[Picture], labels: Sequence[int]) -> list[np.ndarray]:
        """Of the plain view, as step 07 looks."""
        # Imported with it are scikit-learn and two thousand further modules.
        from cxr.inference.heat_maps import compute_heat_maps, put_back

        seen = [self.to_network(picture) for picture in pictures]
        images = self.to_batch(seen)
        maps = [compute_heat_maps(model, images, labels).maps for model in self.models]
        means = np.mean(maps, axis=0)
        placed = []
        for mean, each, picture in zip(means, seen, pictures, strict=True):
            side = len(picture.network)
            placed.append(put_back(mean, each.crop, picture.width, picture.height, side))
        return placed

    def to_batch(self, seen: Sequence[NetworkImage]) -> Tensor:
        """The images (B, 1, S, S) on the device."""
        images = np.stack([each.image for each in seen])
        return torch.from_numpy(images)[:, None].to(self.runtime.device)

    def headers_of(self, pictures: Sequence[Picture]) -> torch.Tensor | None:
        """What the files' headers say, (B, n), where the networks were trained to read them."""
        if not self.settings.method.header_inputs:
            return None
        rows = []
        for picture in pictures:
            header = picture.header
            rows.append(header_numbers(header.age, header.sex, header.view))
        return torch.from_numpy(np.stack(rows))

    def to_network(self, picture: Picture) -> NetworkImage:
        """The picture as the networks see it, equalised and cut to its lungs where they were
        trained so."""
        side = self.models[0].image_size
        shown = equalize(picture.network, self.settings.method.clahe)
        if self.lung_finder is None:
            return NetworkImage(resize(shown, side), None)
        box = self.lung_finder.find_box(picture.network, picture.width, picture.height)
        cut = cut_to_box(shown, box, picture.width, picture.height)
        return NetworkImage(resize(cut, side), box)


class BlendNetworks(Networks):
    """Those of the runs of a blend; each sees the picture in its own size."""

    def __init__(
        self,
        task: Task,
        settings: Settings,
        folds: Sequence[int],
        runtime: Runtime,
        blend: Blend,
    ) -> None:
        self.task = task
        self.blend = blend
        self.settings = blend_settings(task, settings, next(iter(blend.weights)))
        self.members: list[RunNetworks] = []
        shares = []
        for name, share in blend.of_runs().items():
            of_member = member_settings(task, settings, name)
            self.members.append(RunNetworks(task, of_member, folds, runtime))
            shares.append(share)
        if not shares:
            raise InputError(
                f"all runs of the blend {settings.place.run} have the weight 0: nothing predicts "
                "new images"
            )
        self.shares = np.array(shares)

    @cached_property
    def sides(self) -> list[int]:
        sides = [member.sides for member in self.members]
        if all(each == sides[0] for each in sides):
            return sides[0]
        return sides[0][:1]

    def record(self, run: RunFolder) -> dict[str, Any]:
        members = {member.run.name: member.record(run) for member in self.members}
        return {"weights": self.blend.weights, "members": members}

    def describe(self) -> str:
        members = [f"{member.run.name} ({member.describe()})" for member in self.members]
        return f"a blend of {', '.join(members)}"

    def predict(self, pictures: Sequence[Picture]) -> list[Any]:
        by_member = [member.predict(pictures) for member in self.members]
        mixed = []
        for predictions in zip(*by_member, strict=True):
            mixed.append(self.task.method.mix(predictions, self.shares, self.settings))
        return mixed

    def heat_maps(self, pictures: Sequence[Picture], labels: Sequence[int]) -> list[np.ndarray]:
        """The mean over the runs by their weights."""
        by_member = [member.heat_maps(pictures, labels) for member in self.members]
        return list(np.tensordot(self.shares, np.array(by_member), axes=1))
