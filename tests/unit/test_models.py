"""RetinaNet: shapes over encoders and levels, first probabilities, frozen parts, and every way to load weights."""

import functools
import http.server
import threading

import pretrainedmodels
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from cxr.geometry.anchors import make_anchors, parse_levels
from cxr.methods.detector.losses import detection_loss
from cxr.networks import encoders
from cxr.networks.encoders import build_encoder
from cxr.networks.heads import GlobalHead, flatten_maps
from cxr.networks.network import batch_norms
from cxr.networks.retinanet import RetinaNet
from cxr.networks.weights import load_into, read_weights
from cxr.system.errors import InputError

SMALL = "tu-resnet10t"


def build(
    encoder=SMALL,
    weights="none",
    levels="3-6",
    dropout=0.5,
    box_classes=1,
    image_size=192,
    head_norm="none",
):
    torch.manual_seed(0)
    return RetinaNet(
        encoder, weights, levels, 16, 1, head_norm, dropout, box_classes, 3, image_size
    )


def picture(size=192, number=1):
    return torch.randint(
        0,
        256,
        (number, 1, size, size),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(1),
    )


@pytest.fixture(scope="module")
def resnet18_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.manual_seed(5)
    torch.save(build_encoder("resnet18", "none").state_dict(), path)
    return path


@pytest.mark.parametrize(
    "encoder, levels, size",
    [
        (SMALL, "2-7", 256),
        (SMALL, "3-7", 256),
        (SMALL, "3-6", 192),
        (SMALL, "5-5", 192),
        ("resnet18", "2-6", 192),
        ("se_resnext50_32x4d", "3-6", 192),
        ("mobilenet_v2", "2-7", 256),
        ("tu-convnext_atto", "3-5", 192),
    ],
)
def test_output_shapes(encoder, levels, size):
    model = build(encoder, levels=levels, image_size=size, box_classes=2).eval()
    with torch.inference_mode():
        outputs = model(picture(size, 2))
    anchors = 9 * sum((size // 2**level) ** 2 for level in parse_levels(levels))
    assert outputs["scores"].shape == (2, anchors, 2) and outputs["deltas"].shape == (2, anchors, 4)
    assert outputs["category"].shape == (2, 3) and model.anchors.shape == (anchors, 4)
    assert all(o.dtype == torch.float32 and o.isfinite().all() for o in outputs.values())


def test_outputs_stand_in_the_order_of_the_anchors():
    """A map whose value is its cell's own place, flattened, says where each anchor is."""
    anchors = make_anchors(64, [4, 5])
    maps = []
    for level in (4, 5):
        cells = 64 // 2**level
        place = (torch.arange(cells) + 0.5) * 2**level
        y, x = torch.meshgrid(place, place, indexing="ij")
        maps.append(torch.stack([x, y] * 9)[None])
    assert torch.allclose(flatten_maps(maps, 2)[0], (anchors[:, :2] + anchors[:, 2:]) / 2, atol=1e-4)


def test_an_output_depends_on_the_picture_about_its_anchor():
    """The gradient of one score is strongest near its anchor, for the finest level."""
    model = build(levels="3-5").eval()
    nn.init.normal_(model.score_head[-1].weight)
    seen = []
    model.encoder.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].requires_grad_())
    )
    index = (6 * 24 + 18) * 9 + 4  # level 3, row 6, column 18: centre x = 148, y = 52
    model(picture())["scores"][0, index, 0].backward()
    y, x = divmod(int(seen[0].grad.abs().sum((0, 1)).argmax()), 192)
    assert abs(x - 148) < 24 and abs(y - 52) < 24


@pytest.mark.parametrize("head_norm, levels", [("none", "2-7"), ("none", "3-5"), ("group", "3-5")])
@pytest.mark.parametrize(
    "places", [[], [(0, 0)], [(1, -1), (0, 700), (1, 5), (2, 3000), (0, 0), (0, 710), (0, 9000)]]
)
def test_deltas_of_some_anchors_are_those_of_the_whole_maps(head_norm, levels, places):
    """And so are all gradients; the heads have weights whose reach, two convolutions, would show if it were too short."""
    model = build(levels=levels, image_size=256, head_norm=head_norm, dropout=0.0)
    nn.init.normal_(model.box_head[-1].weight)
    image = torch.tensor([i for i, _ in places], dtype=torch.long)
    anchor = torch.tensor([a % len(model.anchors) for _, a in places], dtype=torch.long)
    found, gradients = [], []
    for asked in (None, (image, anchor)):
        model.zero_grad()
        outputs = model(picture(256, 3), asked)
        deltas = outputs["deltas"] if asked else outputs["deltas"][image, anchor]
        (deltas.square().sum() + outputs["scores"].sum()).backward()
        found.append(deltas.detach())
        gradients.append(
            {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        )
    assert found[1].shape == (len(places), 4) and torch.allclose(*found, atol=1e-5)
    assert gradients[0].keys() == gradients[1].keys() and "box_head.0.weight" in gradients[1]
    for name, gradient in gradients[0].items():
        assert torch.allclose(
            gradient, gradients[1][name], atol=1e-4 * max(1, float(gradient.abs().max()))
        ), name


def test_the_box_head_looks_where_it_is_asked_only():
    model = build(levels="2-5", image_size=256)
    seen = []
    model.box_head.register_forward_pre_hook(
        lambda module, inputs: seen.append(tuple(inputs[0].shape))
    )
    cell = (
        64 * 64 + 10 * 32 + 31
    )  # level 3, row 10, last column: two cells above, below and to the left decide
    model(picture(256, 2), (torch.tensor([1]), torch.tensor([9 * cell + 4])))
    assert seen == [(1, 16, 5, 3)]


def test_first_probability_is_one_percent():
    """Whatever the picture: the output weights are 0, the bias is -log(99); boxes are the anchors themselves."""
    model = build().eval()
    with torch.inference_mode():
        outputs = model(picture())
    assert (
        torch.allclose(outputs["scores"].sigmoid(), torch.tensor(0.01), atol=1e-6)
        and (outputs["deltas"] == 0).all()
    )
    none = torch.zeros(0, dtype=torch.long)
    empty = dict.fromkeys(
        ("positive", "positive_image", "positive_label", "ignored", "ignored_image"), none
    )
    first = detection_loss(
        outputs["scores"], outputs["deltas"], empty | {"goal": torch.zeros(0, 4)}
    )["class"]
    assert float(first) == pytest.approx(len(model.anchors) * 0.75 * 0.01**2 * 0.01005, rel=1e-3)


def test_batch_norm_is_frozen_exactly_when_pretrained(resnet18_file):
    for weights in ("none", str(resnet18_file)):
        model = build("resnet18", weights).train()
        before = batch_norms(model.encoder)[0].running_mean.clone()
        model(picture(number=2))
        frozen = torch.equal(before, batch_norms(model.encoder)[0].running_mean)
        assert frozen == (weights != "none") == model.pretrained
        assert all(norm.training != model.pretrained for norm in batch_norms(model.encoder))
        assert model.score_head[-2].training and model.encoder.training
        assert not any(module.training for module in model.eval().modules())


def test_freeze_encoder():
    model = build()
    model.freeze_encoder(True)
    sum(o.sum() for o in model(picture()).values()).backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert (
        model.pyramid.lateral["5"].weight.grad is not None
        and model.global_head.linear.weight.grad is not None
    )
    model.freeze_encoder(False)
    assert all(p.requires_grad for p in model.parameters())


def test_dropout_acts_on_scores_and_category_only_in_training():
    model = build(dropout=0.9)
    for layer in (model.score_head[-1], model.box_head[-1]):
        nn.init.normal_(layer.weight)
    for norm in batch_norms(model.encoder):
        norm.momentum = 0
    a, b = (model.train()(picture(number=2)) for _ in range(2))
    assert not torch.equal(a["scores"], b["scores"]) and not torch.equal(
        a["category"], b["category"]
    )
    assert torch.equal(a["deltas"], b["deltas"])
    a, b = (model.eval()(picture()) for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_global_head_by_hand():
    """4 x 4 cells of 1 channel after pooling 8 x 8: with weights that copy the middle, mean and maximum are known."""
    head = GlobalHead(1, 2, 0.0).eval()
    nn.init.zeros_(head.conv.weight)
    nn.init.zeros_(head.conv.bias)
    head.conv.weight.data[0, 0, 1, 1] = 1
    nn.init.zeros_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    head.linear.weight.data[0, 0] = head.linear.weight.data[1, 256] = 1
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    # pooled rows end in 9 11 13 15, 25 .. 31, 41 .. 47, 57 .. 63; the middle 2 x 2 is 27 29 43 45
    assert head(x)[0].tolist() == [36.0, 45.0]


@pytest.mark.parametrize(
    "levels, size, reason",
    [
        ("2-7", 192, "multiple of 128, at least 192"),
        ("3-6", 200, "multiple of 64"),
        ("3-5", 160, "at least 192"),
        ("1-5", 256, "start at 2"),
        ("3-8", 256, "end at 5 to 7"),
        ("3-4", 256, "end at 5"),
        ("x", 256, "such as 2-7"),
    ],
)
def test_sizes_and_levels_that_do_not_fit(levels, size, reason):
    with pytest.raises(InputError, match=reason):
        build(levels=levels, image_size=size)


@pytest.mark.parametrize("name", ["resnet19", "tu-resnet19", "resnet10t", ""])
def test_unknown_encoder(name):
    with pytest.raises(
        InputError, match=f"unknown --encoder {name}: choose from.*resnet18.*tu-NAME"
    ):
        build_encoder(name, "none")


def test_encoder_without_pyramid():
    with pytest.raises(InputError, match="tu-vit_tiny_patch16_224 has no pyramid"):
        build_encoder("tu-vit_tiny_patch16_224", "none")


def test_encoder_of_timm_with_a_tag():
    assert (
        build_encoder(f"{SMALL}.c3_in1k", "none").out_channels
        == build_encoder(SMALL, "none").out_channels
    )


def equal_weights(encoder, path):
    state = torch.load(path, weights_only=True)
    return all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())


def test_weights_from_a_state_dict(resnet18_file):
    assert equal_weights(build_encoder("resnet18", str(resnet18_file)), resnet18_file)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s},
        lambda s: {"model": {f"encoder.{k}": v for k, v in s.items()}, "epoch": 3},
        lambda s: {f"module.encoder.{k}": v for k, v in s.items()},
        lambda s: s | {"fc.weight": torch.zeros(1000, 512)},
    ],
)
def test_weights_in_other_wrappings(resnet18_file, tmp_path, wrap):
    torch.save(wrap(torch.load(resnet18_file, weights_only=True)), tmp_path / "w.pth")
    assert equal_weights(build_encoder("resnet18", str(tmp_path / "w.pth")), resnet18_file)


def test_weights_from_safetensors(resnet18_file, tmp_path):
    save_file(torch.load(resnet18_file, weights_only=True), tmp_path / "w.safetensors")
    assert equal_weights(build_encoder("resnet18", str(tmp_path / "w.safetensors")), resnet18_file)


def test_weights_of_another_encoder(resnet18_file):
    with pytest.raises(
        InputError, match="resnet18.pth fits another encoder: only .* choose the --encoder"
    ):
        build_encoder("mobilenet_v2", str(resnet18_file))


def test_weights_with_a_tenth_missing():
    encoder = nn.Sequential(*[nn.Linear(2, 2) for _ in range(10)])
    state = {key: torch.ones_like(value) for key, value in encoder.state_dict().items()}
    for key in ("9.weight", "9.bias"):
        del state[key]
    load_into(encoder, dict(state), "file")
    assert encoder[8].weight.eq(1).all() and not encoder[9].weight.eq(1).all()
    with pytest.raises(InputError, match="only 17 of 20 tensors"):
        load_into(encoder, {key: value for key, value in state.items() if key != "8.bias"}, "file")


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_broken_weights(resnet18_file, tmp_path, name, share):
    if name == "w.safetensors":
        save_file(torch.load(resnet18_file, weights_only=True), tmp_path / name)
        content = (tmp_path / name).read_bytes()
    else:
        content = resnet18_file.read_bytes()
    path = write(tmp_path / name, content[: int(len(content) * share)])
    with pytest.raises(InputError, match=f"{name} holds no state dict that can be loaded safely"):
        build_encoder("resnet18", str(path))


def test_whole_modules_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(
        InputError, match="module.pth holds no state dict that can be loaded safely.*state_dict"
    ):
        read_weights(tmp_path / "module.pth")


def test_a_lone_tensor_is_no_state_dict(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(InputError, match="tensor.pth holds no state dict but a Tensor"):
        read_weights(tmp_path / "tensor.pth")


def test_weights_that_do_not_exist():
    with pytest.raises(InputError, match="--weights nowhere.pth is not a file"):
        build_encoder("resnet18", "nowhere.pth")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Address of a local server of tmp_path / files; downloads go to tmp_path / hub."""
    folder = tmp_path / "files"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(handler.func, "log_message", lambda *args: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
        monkeypatch.setattr(torch.hub, "_hub_dir", None)
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


def use_address(monkeypatch, address):
    monkeypatch.setitem(
        pretrainedmodels.pretrained_settings["resnet18"], "imagenet", {"url": address}
    )


def test_weights_from_the_address_of_pretrainedmodels(server, monkeypatch, resnet18_file):
    address, folder = server
    write(folder / "resnet18-x.pth", resnet18_file.read_bytes())
    use_address(monkeypatch, f"{address}/resnet18-x.pth")
    assert equal_weights(build_encoder("resnet18", "pretrainedmodels"), resnet18_file)


@pytest.mark.parametrize(
    "name, content", [("gone.pth", None), ("page.pth", b"<html>moved</html>"), ("cut.pth", b"")]
)
def test_address_without_weights(server, monkeypatch, name, content):
    address, folder = server
    if content is not None:
        write(folder / name, content)
    use_address(monkeypatch, f"{address}/{name}")
    with pytest.raises(
        InputError,
        match=f"{name} could not be loaded.*--weights imagenet, or give a downloaded file",
    ):
        build_encoder("resnet18", "pretrainedmodels")


def test_address_that_nobody_answers(server, monkeypatch):
    use_address(monkeypatch, "http://127.0.0.1:9/resnet18-x.pth")
    with pytest.raises(InputError, match="could not be loaded.*--weights FILE"):
        build_encoder("resnet18", "pretrainedmodels")


@pytest.mark.parametrize("name", ["efficientnet-b0", SMALL])
def test_encoder_unknown_to_pretrainedmodels(name):
    with pytest.raises(InputError, match=f"no ImageNet weights of {name}"):
        build_encoder(name, "pretrainedmodels")


@pytest.mark.parametrize("name", ["resnet18", SMALL])
def test_hub_without_a_network(name, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=f"ImageNet weights of {name} could not be.*--weights FILE.*--weights none"
    ):
        build_encoder(name, "imagenet")


def test_encoder_without_imagenet_weights(monkeypatch):
    monkeypatch.setitem(encoders.catalogue["resnet18"], "pretrained_settings", {"other": None})
    with pytest.raises(InputError, match="resnet18 has no weights named imagenet.*--weights FILE"):
        build_encoder("resnet18", "imagenet")
