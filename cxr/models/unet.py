"""A U-Net with a label head (first form)."""

import segmentation_models_pytorch as smp
from torch import nn


class Segmenter(nn.Module):
    def __init__(self, encoder, image_size):
        super().__init__()
        self.net = smp.Unet(encoder, encoder_weights=None, in_channels=1, decoder_channels=(128, 64, 32, 16, 16),
                            aux_params={"classes": 1, "dropout": None})
        self.image_size, self.pretrained = image_size, False

    def forward(self, images):
        mask, label = self.net(images.float() / 127.5 - 1)
        return {"mask": mask, "label": label[:, 0]}

    def freeze_encoder(self, frozen):
        self.net.encoder.requires_grad_(not frozen)


def build_segmenter(config, load_weights=True):
    return Segmenter(config.encoder, config.image_size)
