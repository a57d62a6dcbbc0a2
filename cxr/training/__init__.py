"""Losses, augmentation, the order of images, the loop with exact resume."""
