"""Losses of masks and labels (first form)."""

import torch.nn.functional as F


def mask_loss(outputs, batch, config):
    """Weighted terms {'bce', 'dice', 'label'}."""
    logits, true = outputs["mask"].float(), batch["mask"]
    p = logits.sigmoid()
    dice = 1 - (2 * (p * true).sum() + 1) / (p.sum() + true.sum() + 1)
    return {"bce": 3 * F.binary_cross_entropy_with_logits(logits, true), "dice": dice,
            "label": 0.3 * F.binary_cross_entropy_with_logits(outputs["label"].float(), batch["label"].float())}
