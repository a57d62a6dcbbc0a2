"""Encoders: timm's own weights in every family, input scales, maps that fit, refusals."""

import warnings

import pretrainedmodels
import pytest
import timm
import torch
from torch import nn

from cxr.inference.checkpoint import save_state
from cxr.inference.run import load_model
from cxr.networks import encoders
from cxr.networks.classifier import ImageClassifier
from cxr.networks.dry_run import dry_run
from cxr.networks.encoders import (
    NASNETS,
    build_encoder,
    build_trunk,
    catalogue,
    check_maps,
    encoder_channels,
    encoder_maps,
    hub_name,
)
from cxr.networks.input_scale import input_scale
from cxr.networks.network import batch_norms
from cxr.networks.retinanet import RetinaNet
from cxr.networks.unet import UNet
from cxr.networks.weights import author_name, fetch_pretrainedmodels
from cxr.system.errors import InputError
from cxr.tasks import TASKS

# One small network of each family of timm. The last two need 224 pixels.
SWIN = "swin_tiny_patch4_window7_224"
COAT = "coat_tiny"
QUICK_FAMILIES = [
    "resnet10t",
    "tf_efficientnet_lite0",
    "fbnetc_100",
    "mobilenetv3_small_050",
    "convnext_atto",
    "dla46_c",
    "efficientvit_b0",
    "legacy_xception",
    "darknet17",
]
SLOW_FAMILIES = [
    "legacy_seresnext26_32x4d",
    "tf_efficientnetv2_b0",
    "mobilenetv4_conv_small",
    "regnety_002",
    "densenet121",
    "ese_vovnet19b_dw",
    "hrnet_w18_small",
    "dpn48b",
    "repvgg_a0",
    "xception41",
    "pvt_v2_b0",
    "mobilevit_xxs",
    "fastvit_t8",
    "tresnet_m",
    SWIN,
    COAT,
]
FAMILIES = [*QUICK_FAMILIES, *SLOW_FAMILIES]
WITHOUT_TRUNK = ("efficientvit_b0", SWIN, COAT)


def lively_network(name):
    """timm's network with random weights and statistics, which an omitted tensor would change."""
    torch.manual_seed(0)
    network = timm.create_model(name)
    for norm in batch_norms(network):
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        nn.init.uniform_(norm.running_var, 0.8, 1.2)
    return network.eval()


def timm_maps(name, state, images):
    """What timm's own wrapper for feature maps gives with these weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = timm.create_model(
            name,
            features_only=True,
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": dict(state)},
        )
    maps = network.eval()(images)
    if getattr(network, "output_fmt", None) == "NHWC":
        maps = [x.permute(0, 3, 1, 2) for x in maps]
    return maps


@pytest.mark.parametrize(
    "name",
    [*QUICK_FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_FAMILIES)],
)
def test_weights_of_timm_give_the_maps_of_timm(name, tmp_path):
    network = lively_network(name)
    state = network.state_dict()
    torch.save(state, tmp_path / "timm.pth")
    side = 224 if name in (SWIN, COAT) else 64
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = timm_maps(name, state, images)
        maps = build_encoder(f"tu-{name}", str(tmp_path / "timm.pth")).eval()(images)
    by_shape = {tuple(x.shape): x for x in maps}
    for x in expected:
        assert torch.equal(by_shape[tuple(x.shape)], x)

    # The classifier reads the same file up to the last convolution.
    if name not in WITHOUT_TRUNK and name != "fbnetc_100":
        with torch.inference_mode():
            trunk = build_trunk(f"tu-{name}", str(tmp_path / "timm.pth")).eval()
            assert torch.equal(trunk(images)[0], network.forward_features(images))


def test_no_two_tensors_share_a_name_without_wrappers():
    for name in FAMILIES:
        with torch.device("meta"):
            network = timm.create_model(name)
        names = [author_name(key) for key in network.state_dict()]
        assert len(set(names)) == len(names)


def test_the_epsilon_of_fbnet_does_not_depend_on_where_weights_come_from():
    """timm sets it only with the hub's weights, so a checkpoint would meet another network."""
    for network in (build_encoder("tu-fbnetc_100", "none"), build_trunk("tu-fbnetc_100", "none")):
        assert {norm.eps for norm in batch_norms(network)} == {1e-3}


SETTINGS = {
    "retinanet": {
        "levels": "3-5",
        "channels": 16,
        "head_convs": 1,
        "head_norm": "none",
        "dropout": 0.0,
        "box_classes": 1,
        "image_classes": 3,
        "image_size": 192,
    },
    "unet": {"decoder": "unet", "label_head": "none", "frozen_norm": False, "image_size": 64},
    "classifier": {
        "decoder": "blocks",
        "auxiliary": False,
        "classes": 3,
        "dropout": 0.0,
        "image_size": 64,
    },
}
NETWORKS = {"retinanet": RetinaNet, "unet": UNet, "classifier": ImageClassifier}


def build(task, encoder, weights="none", **changes):
    return NETWORKS[task](encoder=encoder, weights=weights, **SETTINGS[task] | changes)


def test_one_file_serves_detector_unet_and_classifier(tmp_path):
    state = lively_network("resnet10t").state_dict()
    torch.save(state, tmp_path / "timm.pth")
    by_name = {author_name(name): value for name, value in state.items()}
    for task in NETWORKS:
        model = build(task, "tu-resnet10t", str(tmp_path / "timm.pth"))
        for name, value in model.encoder.state_dict().items():
            assert torch.equal(value, by_name[author_name(name)])


@pytest.mark.parametrize("first", NETWORKS)
@pytest.mark.parametrize("second", NETWORKS)
def test_a_checkpoint_of_one_serves_another(first, second, tmp_path):
    torch.manual_seed(0)
    source = build(first, "tu-resnet10t")
    torch.save({"model": source.state_dict(), "epoch": 3}, tmp_path / "epoch003.pt")
    target = build(second, "tu-resnet10t", str(tmp_path / "epoch003.pt"))
    values = zip(
        source.encoder.state_dict().values(), target.encoder.state_dict().values(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in values)


@pytest.mark.parametrize("task", NETWORKS)
@pytest.mark.parametrize(
    "encoder, mean, std",
    [
        ("resnet18", 0.449, 0.226),
        ("tu-resnet10t", 0.449, 0.226),
        ("tu-tf_efficientnet_lite0", 0.5, 0.5),
        ("xception", 0.5, 0.5),
        ("dpn68", 0.45098, 0.234825),
    ],
)
def test_each_encoder_reads_gray_values_in_its_own_scale(task, encoder, mean, std):
    model = build(task, encoder).eval()
    assert (model.input_mean, model.input_std) == (mean, std)
    inputs = []
    model.encoder.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    side = model.image_size
    model(torch.full((1, 1, side, side), 51, dtype=torch.uint8))
    assert inputs[0].shape == (1, 3, side, side)
    assert inputs[0].unique().tolist() == pytest.approx([(0.2 - mean) / std])


def test_scales_are_those_of_pretrainedmodels():
    compared = 0
    for name in [*catalogue, *NASNETS]:
        scale = input_scale(name)
        for settings in pretrainedmodels.pretrained_settings.get(name, {}).values():
            assert scale.mean == pytest.approx(sum(settings["mean"]) / 3, abs=1e-5)
            assert scale.std == pytest.approx(sum(settings["std"]) / 3, abs=1e-5)
            compared += 1
    assert compared >= 35


def test_scales_are_those_of_timm():
    for name in FAMILIES:
        settings = timm.get_pretrained_cfg(name)
        scale = input_scale(f"tu-{name}")
        assert scale.mean == pytest.approx(sum(settings.mean) / 3, abs=1e-6)
        assert scale.std == pytest.approx(sum(settings.std) / 3, abs=1e-6)


def save_and_load(path, **changes):
    """A detector from a checkpoint of step 03 with these entries changed."""
    task = TASKS["rsna"]
    values = SETTINGS["retinanet"] | {"encoder": "tu-tf_efficientnet_lite0", "weights": "none"}
    del values["box_classes"], values["image_classes"]
    settings = task.make_settings(values)
    labels = task.used_labels(settings)
    model = task.method.build_model(settings, labels, load_weights=False)
    state = {"task": "rsna", "config": settings.plain(), "model": model.state_dict()}
    save_state(path, state | changes)
    return load_model(task, path, torch.device("cpu"))


def test_a_checkpoint_says_how_its_weights_read_gray_values(tmp_path):
    model = save_and_load(tmp_path / "epoch001.pt", input_scale=[0.4, 0.3])
    assert model.scale == (0.4, 0.3)


def test_a_detectors_checkpoint_that_does_not_say_it(tmp_path):
    """Its encoder read images in ImageNet's scale, whatever it was."""
    assert save_and_load(tmp_path / "epoch001.pt").scale == (0.449, 0.226)


def test_a_classifiers_checkpoint_that_does_not_say_it():
    model = build("classifier", "tu-tf_efficientnet_lite0")
    model.restore_scale(None)
    assert model.scale == (0.5, 0.5)


# ------------------------------------------------------------ the paper's encoders


PAPERS = ["se_resnext50_32x4d", "se_resnext101_32x4d", "inceptionresnetv2", "xception", "dpn92"]


@pytest.mark.parametrize("name", [*PAPERS, *NASNETS])
def test_the_papers_encoders_have_maps_for_anchors_from_level_2(name):
    with torch.device("meta"):
        encoder = build_encoder(name, "none")
    check_maps(encoder, name, 256, range(2, 8))
    maps = encoder_maps(encoder, name, 256)
    assert [x.shape[1] for x in maps] == encoder_channels(encoder)


@pytest.mark.parametrize("name", NASNETS)
def test_last_map_of_a_nasnet_by_its_own_package(name):
    encoder = build_encoder(name, "none").eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(encoder(images)[-1], encoder.network.features(images))


def test_a_nasnet_takes_the_state_dict_of_its_package(monkeypatch):
    torch.manual_seed(0)
    state = pretrainedmodels.nasnetamobile(num_classes=1000, pretrained=None).state_dict()
    addresses = []

    def load(address, **_options):
        addresses.append(address)
        return state

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load)
    for weights in ("imagenet", "pretrainedmodels"):
        encoder = build_encoder("nasnetamobile", weights)
        for name, value in encoder.network.state_dict().items():
            assert torch.equal(value, state[name])
    known = pretrainedmodels.pretrained_settings["nasnetamobile"]["imagenet"]["url"]
    assert addresses == [known, known]


def test_a_dpn_has_its_weights_under_another_name(monkeypatch):
    assert hub_name("dpn92") == "imagenet+5k"
    assert hub_name("resnet18") == "imagenet"
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda address, **_options: {"address": address}
    )
    known = pretrainedmodels.pretrained_settings["dpn92"]["imagenet+5k"]["url"]
    assert fetch_pretrainedmodels("dpn92") == {"address": known}


# ------------------------------------------------------------ what does not fit


@pytest.mark.parametrize(
    "encoder, levels, reason",
    [
        ("tu-legacy_xception", "2-5", "64 x 64 cells at stride 4 .* such as xception"),
        ("tu-inception_v3", "3-5", "32 x 32 cells at stride 8 .* such as inceptionv4"),
        ("tu-inception_v4", "3-5", "32 x 32 cells at stride 8 .* such as inceptionv4"),
        ("tu-inception_resnet_v2", "3-5", "stride 8 .* such as inceptionresnetv2"),
        (f"tu-{SWIN}", "3-5", "256 pixels .*made for --image-size 224"),
        (f"tu-{COAT}", "3-5", "256 pixels .*made for --image-size 224"),
    ],
)
def test_encoders_whose_maps_do_not_fit_the_anchors(encoder, levels, reason):
    with pytest.raises(InputError, match=f"--encoder {encoder} .*{reason}"):
        build("retinanet", encoder, levels=levels, image_size=256)


def test_an_unpadded_encoder_whose_coarser_maps_are_whole():
    model = build("retinanet", "tu-legacy_xception", levels="3-5", image_size=256).eval()
    with torch.inference_mode():
        outputs = model(torch.zeros(1, 1, 256, 256))
    assert outputs["scores"].shape[1] == len(model.anchors)


@pytest.mark.parametrize("task", ["unet", "classifier"])
def test_an_encoder_for_images_of_one_size(task):
    name = f"tu-{SWIN}"
    with pytest.raises(InputError, match=r"cannot read images of 64 pixels .*--image-size 224"):
        build(task, name, decoder="unet")
    model = build(task, name, decoder="unet", image_size=224).eval()
    assert model(torch.zeros(1, 1, 224, 224))


def test_a_decoder_that_cannot_join_the_maps():
    message = "--decoder aspp cannot join the maps of --encoder tu-inception_v3 at 128 pixels"
    with pytest.raises(InputError, match=message):
        build("unet", "tu-inception_v3", decoder="aspp", image_size=128)


@pytest.mark.parametrize("encoder", ["tu-efficientvit_b0", f"tu-{SWIN}", f"tu-{COAT}"])
def test_encoders_without_a_last_map_for_classes(encoder):
    with pytest.raises(InputError, match=f"--encoder {encoder} .*or --decoder unet"):
        build("classifier", encoder, image_size=224)


@pytest.mark.parametrize(
    "name, twin",
    [
        ("timm-tf_efficientnet_lite0", "tu-tf_efficientnet_lite0"),
        ("timm-efficientnet-b3", "tu-tf_efficientnet_b3"),
        ("timm-efficientnet-l2", "tu-tf_efficientnet_l2"),
    ],
)
def test_tensorflow_weights_are_not_loaded_into_a_network_that_pads_otherwise(name, twin):
    assert encoders.is_known(twin)
    for weights in ("imagenet", "pretrainedmodels", "file.pth"):
        with pytest.raises(InputError, match=f"--encoder {name} pads .* use --encoder {twin}$"):
            build_encoder(name, weights)


def test_a_checkpoint_of_such_a_network_can_still_be_read():
    assert encoder_channels(build_encoder("timm-tf_efficientnet_lite0", "none"))


# ------------------------------------------------------------ the dry run


def test_a_dry_run_changes_nothing():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    output = dry_run(network, (2, 3, 8, 8))
    assert output.shape == (2, 4, 6, 6)
    assert output.device.type == "meta"
    assert [module.training for module in network] == [True, False, True]
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


class MakesTensors(nn.Module):
    """Adds a tensor that it makes on the CPU, which shapes alone cannot be added to."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images * self.weight + torch.tensor([[1.0, 2.0]])


def test_a_dry_run_of_a_module_that_needs_values():
    assert dry_run(MakesTensors(), (1, 1, 2, 2)).shape == (1, 1, 2, 2)
