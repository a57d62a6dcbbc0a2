"""RetinaNet and encoders: shapes, first probabilities, frozen parts, every way to load weights."""

import functools
import http.server
import threading

import pretrainedmodels
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from cxr.data.batch import Batch
from cxr.geometry.anchors import make_anchors, parse_levels
from cxr.methods.detector.losses import detection_loss
from cxr.networks import encoders
from cxr.networks.encoders import build_encoder, encoder_channels
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
    **options,
):
    torch.manual_seed(0)
    return RetinaNet(
        encoder=encoder,
        weights=weights,
        levels=levels,
        channels=16,
        head_convs=1,
        head_norm=head_norm,
        dropout=dropout,
        box_classes=box_classes,
        image_classes=3,
        image_size=image_size,
        **options,
    )


def random_pictures(size=192, number=1):
    generator = torch.Generator().manual_seed(1)
    shape = (number, 1, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


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
        outputs = model(random_pictures(size, 2))
    cells = sum((size // 2**level) ** 2 for level in parse_levels(levels))
    anchors = 9 * cells
    assert outputs["scores"].shape == (2, anchors, 2)
    assert outputs["deltas"].shape == (2, anchors, 4)
    assert outputs["category"].shape == (2, 3)
    assert model.anchors.shape == (anchors, 4)
    for output in outputs.values():
        assert output.dtype == torch.float32
        assert output.isfinite().all()


def test_what_training_and_prediction_ask():
    model = build(weights="imagenet", load_weights=False)
    assert model.image_size == 192
    assert model.pretrained
    assert model.cam_layer is None
    names = list(model.state_dict())
    model.prepare_for_prediction()
    assert list(model.state_dict()) == names


def test_outputs_stand_in_the_order_of_the_anchors():
    """A map whose value is its cell's own position, flattened, says where each anchor is."""
    anchors = make_anchors(64, [4, 5])
    maps = []
    for level in (4, 5):
        cells = 64 // 2**level
        position = (torch.arange(cells) + 0.5) * 2**level
        y, x = torch.meshgrid(position, position, indexing="ij")
        maps.append(torch.stack([x, y] * 9)[None])
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert torch.allclose(flatten_maps(maps, 2)[0], centres, atol=1e-4)


def test_an_output_depends_on_the_picture_about_its_anchor():
    """The gradient of one score is strongest near its anchor, for the finest level."""
    model = build(levels="3-5").eval()
    nn.init.normal_(model.score_head[-1].weight)
    inputs = []
    model.encoder.register_forward_pre_hook(
        lambda _module, arguments: inputs.append(arguments[0].requires_grad_())
    )
    index = (6 * 24 + 18) * 9 + 4  # level 3, row 6, column 18: centre x = 148, y = 52
    model(random_pictures())["scores"][0, index, 0].backward()
    strength = inputs[0].grad.abs().sum((0, 1))
    y, x = divmod(int(strength.argmax()), 192)
    assert abs(x - 148) < 24
    assert abs(y - 52) < 24


@pytest.mark.parametrize("head_norm, levels", [("none", "2-7"), ("none", "3-5"), ("group", "3-5")])
@pytest.mark.parametrize(
    "selected",  # pairs of image and anchor
    [[], [(0, 0)], [(1, -1), (0, 700), (1, 5), (2, 3000), (0, 0), (0, 710), (0, 9000)]],
)
def test_deltas_of_some_anchors_are_those_of_the_whole_maps(head_norm, levels, selected):
    """And so are all gradients.

    The heads have weights whose reach, two convolutions, would show if it were too short.
    """
    model = build(levels=levels, image_size=256, head_norm=head_norm, dropout=0.0)
    nn.init.normal_(model.box_head[-1].weight)
    image = torch.tensor([i for i, _ in selected], dtype=torch.long)
    anchor = torch.tensor([a % len(model.anchors) for _, a in selected], dtype=torch.long)

    whole = model(random_pictures(256, 3))
    expected = whole["deltas"][image, anchor]
    (expected.square().sum() + whole["scores"].sum()).backward()
    expected_gradients = gradients(model)

    model.zero_grad()
    partial = model(random_pictures(256, 3), (image, anchor))
    (partial["deltas"].square().sum() + partial["scores"].sum()).backward()
    partial_gradients = gradients(model)

    assert partial["deltas"].shape == (len(selected), 4)
    assert torch.allclose(partial["deltas"], expected, atol=1e-5)
    assert partial_gradients.keys() == expected_gradients.keys()
    assert "box_head.0.weight" in partial_gradients
    for name, gradient in expected_gradients.items():
        tolerance = 1e-4 * max(1, float(gradient.abs().max()))
        assert torch.allclose(partial_gradients[name], gradient, atol=tolerance), name


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_box_head_looks_where_it_is_asked_only():
    model = build(levels="2-5", image_size=256)
    shapes = []
    model.box_head.register_forward_pre_hook(
        lambda _module, arguments: shapes.append(tuple(arguments[0].shape))
    )
    # Level 3, row 10, last column: two cells above, below and to the left decide.
    cell = 64 * 64 + 10 * 32 + 31
    model(random_pictures(256, 2), (torch.tensor([1]), torch.tensor([9 * cell + 4])))
    assert shapes == [(1, 16, 5, 3)]


def test_first_probability_is_one_percent():
    """Whatever the picture: the last weights are 0, the bias is -log(99); boxes are the anchors."""
    model = build().eval()
    pictures = random_pictures()
    with torch.inference_mode():
        outputs = model(pictures)
    assert torch.allclose(outputs["scores"].sigmoid(), torch.tensor(0.01), atol=1e-6)
    assert (outputs["deltas"] == 0).all()
    terms = detection_loss(outputs["scores"], outputs["deltas"], batch_without_boxes(pictures))
    expected = len(model.anchors) * 0.75 * 0.01**2 * 0.01005
    assert float(terms["class"]) == pytest.approx(expected, rel=1e-3)


def batch_without_boxes(pictures):
    none = torch.zeros(0, dtype=torch.long)
    return Batch(
        images=pictures,
        boxes=torch.zeros(len(pictures), 1, 4),
        labels=torch.full((len(pictures), 1), -1),
        image_labels=torch.zeros(len(pictures), dtype=torch.long),
        rows=torch.arange(len(pictures)),
        target={
            "positive": none,
            "positive_label": none,
            "ignored": none,
            "goal": torch.zeros(0, 4),
        },
        target_image={"positive": none, "ignored": none},
    )


def test_batch_norm_is_frozen_exactly_when_pretrained(resnet18_file):
    for weights in ("none", str(resnet18_file)):
        model = build("resnet18", weights).train()
        norms = batch_norms(model.encoder)
        before = norms[0].running_mean.clone()
        model(random_pictures(number=2))
        is_frozen = torch.equal(before, norms[0].running_mean)
        assert is_frozen == (weights != "none")
        assert is_frozen == model.pretrained
        assert all(norm.training != model.pretrained for norm in norms)
        assert model.score_head[-2].training
        assert model.encoder.training
        assert not any(module.training for module in model.eval().modules())


def test_freeze_encoder():
    model = build()
    model.freeze_encoder(True)
    sum(output.sum() for output in model(random_pictures()).values()).backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert model.pyramid.lateral["5"].weight.grad is not None
    assert model.global_head.linear.weight.grad is not None
    model.freeze_encoder(False)
    assert all(p.requires_grad for p in model.parameters())


def test_dropout_acts_on_scores_and_category_only_in_training():
    model = build(dropout=0.9)
    for layer in (model.score_head[-1], model.box_head[-1]):
        nn.init.normal_(layer.weight)
    for norm in batch_norms(model.encoder):
        norm.momentum = 0
    model.train()
    first = model(random_pictures(number=2))
    second = model(random_pictures(number=2))
    assert not torch.equal(first["scores"], second["scores"])
    assert not torch.equal(first["category"], second["category"])
    assert torch.equal(first["deltas"], second["deltas"])

    model.eval()
    first = model(random_pictures())
    second = model(random_pictures())
    for name in first:
        assert torch.equal(first[name], second[name])


def test_global_head_by_hand():
    """4 x 4 cells of 1 channel after pooling 8 x 8.

    With weights that copy the middle, mean and maximum are known.
    """
    head = GlobalHead(1, 2, 0.0).eval()
    for weight in (head.conv.weight, head.conv.bias, head.linear.weight, head.linear.bias):
        nn.init.zeros_(weight)
    head.conv.weight.data[0, 0, 1, 1] = 1
    head.linear.weight.data[0, 0] = 1
    head.linear.weight.data[1, 256] = 1
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    # Pooled rows end in 9 11 13 15, 25 .. 31, 41 .. 47, 57 .. 63; the middle 2 x 2 is 27 29 43 45.
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
    message = f"unknown --encoder {name}: choose from.*resnet18.*tu-NAME"
    with pytest.raises(InputError, match=message):
        build_encoder(name, "none")


def test_encoder_without_pyramid():
    with pytest.raises(InputError, match="tu-vit_tiny_patch16_224 has no pyramid"):
        build_encoder("tu-vit_tiny_patch16_224", "none")


def test_encoder_of_timm_with_a_tag():
    tagged = build_encoder(f"{SMALL}.c3_in1k", "none")
    untagged = build_encoder(SMALL, "none")
    assert encoder_channels(tagged) == encoder_channels(untagged)


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
    message = r"resnet18\.pth fits another encoder: only .* choose the --encoder"
    with pytest.raises(InputError, match=message):
        build_encoder("mobilenet_v2", str(resnet18_file))


def test_weights_with_a_tenth_missing():
    encoder = nn.Sequential(*[nn.Linear(2, 2) for _ in range(10)])
    state = {name: torch.ones_like(value) for name, value in encoder.state_dict().items()}
    for name in ("9.weight", "9.bias"):
        del state[name]
    load_into(encoder, state, "file")
    assert encoder[8].weight.eq(1).all()
    assert not encoder[9].weight.eq(1).all()
    del state["8.bias"]
    with pytest.raises(InputError, match="only 17 of 20 tensors"):
        load_into(encoder, state, "file")


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
    message = r"module\.pth holds no state dict that can be loaded safely.*state_dict"
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "module.pth")


def test_a_lone_tensor_is_no_state_dict(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(InputError, match=r"tensor\.pth holds no state dict but a Tensor"):
        read_weights(tmp_path / "tensor.pth")


def test_weights_that_do_not_exist():
    with pytest.raises(InputError, match=r"--weights nowhere\.pth is neither a file nor a run"):
        build_encoder("resnet18", "nowhere.pth")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Address of a local server of tmp_path / files; downloads go to tmp_path / hub."""
    folder = tmp_path / "files"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(handler.func, "log_message", lambda *_args: None)
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
    message = f"{name} could not be loaded.*--weights imagenet, or give a downloaded file"
    with pytest.raises(InputError, match=message):
        build_encoder("resnet18", "pretrainedmodels")


@pytest.mark.usefixtures("server")
def test_address_that_nobody_answers(monkeypatch):
    use_address(monkeypatch, "http://127.0.0.1:9/resnet18-x.pth")
    with pytest.raises(InputError, match=r"could not be loaded.*--weights FILE"):
        build_encoder("resnet18", "pretrainedmodels")


@pytest.mark.parametrize("name", ["efficientnet-b0", SMALL])
def test_encoder_unknown_to_pretrainedmodels(name):
    with pytest.raises(InputError, match=f"no ImageNet weights of {name}"):
        build_encoder(name, "pretrainedmodels")


@pytest.mark.parametrize("name", ["resnet18", SMALL])
def test_hub_without_a_network(name, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = f"ImageNet weights of {name} could not be.*--weights FILE.*--weights none"
    with pytest.raises(InputError, match=message):
        build_encoder(name, "imagenet")


def test_encoder_without_imagenet_weights(monkeypatch):
    monkeypatch.setitem(encoders.catalogue["resnet18"], "pretrained_settings", {"other": None})
    with pytest.raises(InputError, match=r"resnet18 has no weights named imagenet.*--weights FILE"):
        build_encoder("resnet18", "imagenet")
