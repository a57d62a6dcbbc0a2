"""What every task that looks for masks shares: network, loss, sampling, views, what is kept of an image."""

import numpy as np
import torch.nn.functional as F

from cxr.data.samplers import make_sampler
from cxr.geometry.lung_box import paste
from cxr.methods.pseudo_labels import add_masks
from cxr.methods.segmenter.losses import mask_loss
from cxr.methods.segmenter.records import MaskCase, MaskPrediction, pack_picture
from cxr.methods.segmenter.scorer import quick_counts, quick_score
from cxr.networks.unet import build_segmenter
from cxr.system.disk import InputError


class MaskTask:
    """Base of a segmentation task; a subclass adds the facts of its data set and how it is scored."""

    plateau_term = "loss"  # the validation loss that `plateau` watches
    by_hand = ""  # where a data set that is not on Kaggle comes from and where it belongs
    takes_submissions = False
    archives = ()
    finding = ("region", "regions")
    kind = MaskPrediction
    tta = ("none", "flip", "flip+scale")  # sets of views that it can undo
    logged = ("metric",)

    def used_classes(self, config):
        return self.box_classes

    def select(self, table, config):
        if config.paste:
            raise InputError("--paste is for tasks of boxes: leave it out")
        return table

    def add_pseudo(self, table, predictions):
        """The training table with the test images of --pseudo."""
        return add_masks(table, predictions)

    def build_model(self, config, load_weights=True):
        """U-Net of the settings. load_weights=False leaves random weights for a checkpoint to replace."""
        return build_segmenter(config, load_weights)

    def targets(self, config):
        """The losses need no more of a sample than its mask and label."""
        return None

    def sampler(self, table, config, rank, world):
        """The order of the training images."""
        return make_sampler(table, config, rank, world)

    def network_inputs(self, batch, config):
        """What the network is told in training beside the images: nothing."""
        return ()

    def loss(self, outputs, batch, model, config):
        """Named, weighted terms."""
        return mask_loss(outputs, batch, config)

    def apply_view(self, images, view, model):
        """Images (B, 1, S, S) uint8 -> the same, larger by view[0] thirds of an octave, flipped if view[1]."""
        thirds, flipped = view
        if thirds:
            side = max(1, round(images.shape[-1] * 2 ** (thirds / 3) / 32)) * 32
            images = F.interpolate(
                images.float(), size=(side, side), mode="bilinear", antialias=True
            )
        return images.flip(-1) if flipped else images

    def outputs(self, model, images):
        """What step 04 wants to know of images."""
        return model(images)

    def undo_view(self, outputs, view, model):
        """Raw outputs of a view -> probabilities of the unchanged image's pixels (B, S, S) and of the images (B,)."""
        masks = outputs["mask"].float().sigmoid()
        masks = masks.flip(-1) if view[1] else masks
        if view[0]:
            masks = F.interpolate(
                masks, size=(model.image_size, model.image_size), mode="bilinear", antialias=True
            )
        return {"mask": masks[:, 0], "label": image_scores(outputs)}

    def merge(self, outputs):
        """[(mean probabilities of the pixels (S, S), of the image ())] of each image over models and views.

        Only the sum is held, since the maps of many models would be gigabytes.
        """
        masks, labels, count = 0, 0, 0
        for output in outputs:
            masks, labels, count = masks + output["mask"], labels + output["label"], count + 1
        return list(zip(masks / count, labels / count))

    def candidates(self, merged, row, model, config):
        """What step 05 needs of an image."""
        mask, label = merged
        probability = mask.cpu().numpy()
        if "crop_x1" in row:
            scale = len(probability) / np.array([row["width"], row["height"]] * 2)
            box = np.round(
                row[["crop_x1", "crop_y1", "crop_x2", "crop_y2"]].to_numpy(float) * scale
            ).astype(int)
            probability = paste(probability, box, len(probability), len(probability))
        return MaskPrediction(
            row["image_id"],
            int(row["width"]),
            int(row["height"]),
            float(label),
            pack_picture(probability, config.probability_size),
        )

    def case(self, found, row, fold):
        """An out-of-fold image with its true mask, from its row of train.csv."""
        return MaskCase(found, row["mask"], fold, str(row["group"]))

    def quick_predictions(self, outputs, batch, model):
        """{row: (counts, image score)}: all that the figures after an epoch need of an image."""
        found = quick_counts(
            outputs["mask"].float().sigmoid()[:, 0], batch["mask"][:, 0], image_scores(outputs)
        )
        return dict(zip(batch["index"].tolist(), found))

    def quick_score(self, predictions, table, config):
        return quick_score(predictions, config.image_size)


def image_scores(outputs):
    """Probability (B,) that an image has a finding: of the label head, where there is one, else the highest pixel."""
    if "label" in outputs:
        return outputs["label"].float().sigmoid()
    return outputs["mask"].float().amax((1, 2, 3)).sigmoid()
