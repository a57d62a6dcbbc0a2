"""Loss of a classifier that learns where the findings are, too."""

import torch.nn.functional as F

from cxr.methods.segmenter.losses import mask_loss, parse_terms


def classifier_loss(outputs, batch, config):
    """Weighted terms: 'class', and those of --mask-loss times --aux-weight where there is an output 'mask'.

    outputs: 'label' (B, C), 'mask' (B, 1, S, S), logits. batch: 'label' (B,) classes, or instead 'soft' (B, C)
    probabilities of the classes, 'mask' (B, 1, S, S) of 0 and 1.
    """
    target = batch["soft"] if "soft" in batch else batch["label"]
    terms = {
        "class": F.cross_entropy(outputs["label"], target, label_smoothing=config.label_smoothing)
    }
    if "mask" in outputs:
        terms |= {
            name: config.aux_weight * value
            for name, value in known_mask_loss(outputs, batch, config).items()
        }
    return terms


def known_mask_loss(outputs, batch, config):
    """Terms of --mask-loss over the images whose mask is known, 'mask_known' (B,) bool; each 0 without such an image.

    What is unknown must not count as empty: in SIIM COVID-19 these are positive studies that nobody drew boxes in.
    """
    known = batch["mask_known"]
    if not known.any():
        return {name: 0 * outputs["mask"].sum() for name in parse_terms(config.mask_loss)}
    return mask_loss({"mask": outputs["mask"][known]}, {"mask": batch["mask"][known]}, config)
