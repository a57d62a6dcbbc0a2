"""Segmentation networks: shapes, gradients, frozen parts, over all decoders and label heads."""

import functools
from dataclasses import replace

import pytest
import torch
from torch import nn

from cxr.config import Config, flags
from cxr.datasets.pneumothorax.presets import PRESETS
from cxr.methods.segmenter.losses import mask_loss
from cxr.networks.decoders import DECODERS
from cxr.networks.network import batch_norms
from cxr.networks.unet import Segmenter, build_segmenter
from cxr.system.errors import InputError

HEADS = {"unet": "double", "plain": "linear", "aspp": "narrow"}
SMALL = Config(encoder="resnet18", weights="none", image_size=64)


@functools.cache
def build(decoder, seed=3):
    torch.manual_seed(seed)
    return build_segmenter(replace(SMALL, decoder=decoder, label_head=HEADS.get(decoder, "none")))


def pictures(number=2, size=64):
    return torch.randint(
        0,
        256,
        (number, 1, size, size),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(1),
    )


@pytest.mark.parametrize("decoder", DECODERS)
def test_shapes_and_names(decoder):
    model = build(decoder).eval()
    with torch.inference_mode():
        outputs = model(pictures(2, 96))
    shapes = {"mask": (2, 1, 96, 96)} | ({"label": (2,)} if decoder in HEADS else {})
    assert {name: tuple(value.shape) for name, value in outputs.items()} == shapes
    assert all(
        value.dtype == torch.float32 and value.isfinite().all() for value in outputs.values()
    )
    assert model.image_size == 64 and not model.pretrained


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_gradient_reaches_every_parameter(decoder):
    model = build(decoder).train()
    for weight in model.parameters():
        if len(weight) == 2:
            weight.data.abs_()  # the two hidden numbers of an attention of 32 channels are else 0 by chance
    outputs = model(pictures())
    sum((value - 1).square().mean() for value in outputs.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.zero_grad(set_to_none=True)
    assert not without


@pytest.mark.parametrize("decoder", DECODERS)
def test_batched_is_single_and_floats_are_bytes(decoder):
    model = build(decoder).eval()
    with torch.inference_mode():
        both, floats = model(pictures()), model(pictures().float())
        single = [model(image[None]) for image in pictures()]
    for name in both:
        assert torch.allclose(both[name], torch.cat([o[name] for o in single]), atol=1e-4)
        assert torch.equal(both[name], floats[name])


def test_every_decoder_is_a_choice():
    choices = {f.name: f.metadata["choices"] for f in flags()}
    assert set(choices["decoder"]) == set(DECODERS) and set(HEADS.values()) < set(
        choices["label_head"]
    )


def test_the_seed_decides_the_weights():
    state = build("albunet").state_dict()
    build.cache_clear()
    again = build("albunet").state_dict()
    assert all(
        torch.equal(value, again[name])
        for name, value in state.items()
        if "running" not in name and "num_batches" not in name
    )


MILLIONS = {
    "first-albunet": 30,
    "first-resnet50": 35,
    "first-scse": 38,
    "second-classifier": 38,
    "second-segmenter": 33,
    "third": 105,
    "fourth": 26,
    "fifth": 34,
}
FURTHER = {
    "efficientnet": (PRESETS["second-segmenter"] | {"encoder": "efficientnet-b3"}, 13),
    "deeplab": (PRESETS["second-segmenter"] | {"decoder": "deeplab"}, 40),
}


@pytest.mark.parametrize("name", [*MILLIONS, *FURTHER])
def test_the_places_networks_and_losses(name):
    """Only shapes, so nothing is computed: 512 pixels through every network, its outputs into its loss."""
    preset, millions = FURTHER.get(name) or (PRESETS[name], MILLIONS[name])
    config = replace(Config(), **preset)
    with torch.device("meta"):
        model = build_segmenter(config, load_weights=False).eval()
        outputs = model(torch.zeros(1, 1, 512, 512))
        terms = mask_loss(
            outputs, {"mask": torch.zeros(1, 1, 512, 512), "label": torch.zeros(1)}, config
        )
    assert outputs["mask"].shape == (1, 1, 512, 512) and ("label" in outputs) == ("label" in terms)
    assert sum(terms.values()).shape == ()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.15)


def test_frozen_norms_of_the_fourth():
    """Neither statistics nor scales move, in the encoder only, and only where the weights are worth keeping."""
    torch.manual_seed(0)
    model = Segmenter("resnet18", "none", "unet", "none", True, 64)
    assert all(norm.training for norm in batch_norms(model.train()))
    model.pretrained = True
    assert not any(norm.training for norm in batch_norms(model.train().encoder))
    assert all(norm.training for norm in batch_norms(model.decoder))
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    model.freeze_encoder(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1.0)
    model(pictures())["mask"].mean().backward()
    optimizer.step()
    moved = {
        name
        for name, value in model.encoder.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved and not any("bn" in name or "downsample.1" in name for name in moved)


def test_frozen_encoder():
    model = build("plain").train()
    model.freeze_encoder(True)
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.requires_grad for p in model.decoder.parameters())
    model.freeze_encoder(False)
    assert all(p.requires_grad for p in model.parameters())


def test_pretrained_follows_the_settings_even_without_loading():
    model = build_segmenter(
        replace(SMALL, weights="imagenet", encoder_norm="frozen"), load_weights=False
    )
    assert model.pretrained and not any(norm.training for norm in batch_norms(model.train().encoder))


@pytest.mark.parametrize("size", [48, 32, 500])
def test_sizes_that_do_not_work(size):
    with pytest.raises(
        InputError, match=f"--image-size {size} does not work: take a multiple of 32"
    ):
        build_segmenter(replace(SMALL, image_size=size))


def test_an_encoder_that_cannot_be_dilated():
    with pytest.raises(
        InputError, match="--encoder densenet121 cannot be dilated for --decoder deeplab"
    ):
        build_segmenter(replace(SMALL, encoder="densenet121", decoder="deeplab"))


def test_label_heads_say_one_number_for_each_image():
    assert (
        isinstance(build("unet").label_head[2], nn.Linear)
        and build("unet").label_head[2].out_features == 512
    )
    assert build("aspp").label_head[2].out_features == 64 and len(build("plain").label_head) == 4
    assert build("cbam").label_head is None
