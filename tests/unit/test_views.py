"""Views and their undoing by RetinaNet's head, and the merge over models and views."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cxr.geometry.anchors import decode_boxes, encode_boxes, flip_index, make_anchors, parse_levels
from cxr.geometry.boxes import box_iou, centre_size
from cxr.method_settings import DetectorSettings
from cxr.methods.base import VIEW_SETS, ImageFacts, Labels, View
from cxr.methods.detector.heads import ViewOutputs
from cxr.methods.detector.method import Detector
from cxr.methods.views import ViewFrame, view_frame
from cxr.settings import make_settings

SIDE = 192
DETECTOR = Detector()
LABELS = Labels(("opacity",), ("no", "other", "opacity"))
SETTINGS = make_settings(
    {
        "encoder": "tu-resnet10t",
        "weights": "none",
        "levels": "3-6",
        "channels": 16,
        "head_convs": 1,
        "image_size": SIDE,
    },
    DetectorSettings,
)
VIEWS = VIEW_SETS["flip+scale"]
LEVELS = parse_levels("3-6")
# Of the views of 256 pixels, by their thirds of an octave: sides of the image and of its canvas.
FRAMES = {0: ViewFrame(256, 256), 1: ViewFrame(323, 384), -1: ViewFrame(203, 256)}
BOX = torch.tensor([60.0, 80, 150, 190])


@pytest.fixture(scope="module")
def network():
    """The real network with random outputs."""
    torch.manual_seed(0)
    model = DETECTOR.build_model(SETTINGS, LABELS).eval()
    for layer in (model.score_head[-1], model.box_head[-1]):
        nn.init.normal_(layer.weight, std=0.3)
    return model


def random_images(count):
    return torch.randint(0, 256, (count, 1, SIDE, SIDE), dtype=torch.uint8)


def every_delta(view_outputs):
    """Deltas (B, A, 4) of every anchor."""
    images, anchors = view_outputs.scores.shape[:2]
    image = torch.arange(images).repeat_interleave(anchors)
    anchor = torch.arange(anchors).repeat(images)
    return view_outputs.deltas_at(image, anchor).unflatten(0, (images, anchors))


# --- views


@torch.inference_mode()
@pytest.mark.parametrize("view", [View(0), View(0, True), View(1, True), View(1)])
def test_boxes_asked_for_later_are_those_of_the_whole_outputs(network, view):
    image = torch.tensor([1, 0, 1, 0])
    anchor = torch.tensor([0, 500, 3000, len(network.anchors) - 1])
    images = DETECTOR.apply_view(random_images(2), view, network)
    whole = DETECTOR.undo_view(network(images), view, network)
    later = DETECTOR.undo_view(DETECTOR.raw_outputs(network, images), view, network)
    assert torch.equal(whole.scores, later.scores)
    assert torch.equal(whole.category, later.category)
    deltas = whole.deltas_at(image, anchor)
    assert torch.allclose(deltas, later.deltas_at(image, anchor), atol=1e-4)
    assert torch.equal(deltas, every_delta(whole)[image, anchor])


@torch.inference_mode()
def test_flipped_views_of_a_flipped_image_are_the_same(network):
    """Averaged over both views, the outputs for the mirror image are those of the picture,
    mirrored."""
    images = random_images(1)
    plain = mean_over_flips(network, images)
    mirrored = mean_over_flips(network, images.flip(-1))
    index = flip_index(SIDE, network.levels)
    signs = torch.tensor([-1.0, 1, 1, 1])
    assert torch.allclose(plain["scores"], mirrored["scores"][:, index], atol=1e-5)
    assert torch.allclose(plain["deltas"], mirrored["deltas"][:, index] * signs, atol=1e-4)
    assert torch.allclose(plain["category"], mirrored["category"], atol=1e-5)


def mean_over_flips(network, images):
    """Outputs of all anchors, averaged over the images and their mirror images, which differ."""
    first, second = [undone_outputs(network, images, view) for view in VIEW_SETS["flip"]]
    assert (first.scores - second.scores).abs().max() > 1e-3
    return {
        "scores": (first.scores + second.scores) / 2,
        "deltas": (every_delta(first) + every_delta(second)) / 2,
        "category": (first.category + second.category) / 2,
    }


def undone_outputs(network, images, view):
    outputs = network(DETECTOR.apply_view(images, view, network))
    return DETECTOR.undo_view(outputs, view, network)


def perfect_outputs(box, side, levels):
    """What a network that knows the box (4,) says of a picture of this side: its IoU with each
    anchor as probability, and the box itself."""
    anchors = make_anchors(side, levels)
    overlap = box_iou(anchors, box[None])[:, 0].clamp(1e-3, 1 - 1e-3)
    return {
        "scores": overlap.logit()[None, :, None],
        "deltas": encode_boxes(box.expand(len(anchors), 4), anchors)[None],
        "category": torch.zeros(1, 3),
    }


def bare_model():
    """What a method asks of a network for images of 256 pixels whose outputs are given."""
    return SimpleNamespace(
        head_name="retinanet",
        levels=LEVELS,
        image_size=256,
        anchors=make_anchors(256, LEVELS),
        fold=0,
    )


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_shows_the_whole_image(view):
    image = torch.zeros(1, 1, 256, 256, dtype=torch.uint8)
    image[..., 80:190, 60:150] = 255
    shown = DETECTOR.apply_view(image, view, bare_model())
    frame = FRAMES[view.thirds]
    assert shown.shape[-2:] == (frame.canvas, frame.canvas)
    x1, y1, x2, y2 = box_in_view(BOX, view, frame.content).round().int().tolist()
    assert shown[..., y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].min() > 250
    content = shown[..., : frame.content, : frame.content].float()
    assert float(content.mean()) == pytest.approx(float(image.float().mean()), rel=0.01)
    assert content.sum() == pytest.approx(shown.float().sum())


def box_in_view(box, view, side):
    """A box (4,) of an image of 256 pixels in a view of this side."""
    scaled = box * side / 256
    if not view.mirrored:
        return scaled
    x1, y1, x2, y2 = scaled
    return torch.stack([side - x2, y1, side - x1, y2])


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_undone(view):
    """The box of a perfect network comes back from every view, with scores like those without a
    view."""
    model = bare_model()
    frame = FRAMES[view.thirds]
    outputs = perfect_outputs(box_in_view(BOX, view, frame.content), frame.canvas, LEVELS)
    undone = DETECTOR.undo_view(outputs, view, model)
    decoded = decode_boxes(every_delta(undone)[0], model.anchors)
    assert torch.allclose(decoded, BOX.expand(len(model.anchors), 4), atol=0.05)

    plain = DETECTOR.undo_view(perfect_outputs(BOX, 256, LEVELS), View(), model)
    assert (undone.scores - plain.scores).abs().mean() < 0.02
    assert undone.scores.max() > plain.scores.max() - 0.15
    assert torch.allclose(undone.category, torch.full((1, 3), 1 / 3))


@pytest.mark.parametrize("image_size", [192, 224, 256, 384, 512])
@pytest.mark.parametrize("thirds", [-1, 0, 1])
def test_views_are_as_large_as_they_say(image_size, thirds):
    """x1.26 and /1.26 to a pixel, whatever the stride; the canvas is a multiple of it."""
    frame = view_frame(image_size, View(thirds), 64, smallest=192)
    assert abs(frame.content - image_size * 2 ** (thirds / 3)) <= 0.5
    assert frame.content <= frame.canvas < max(frame.content, 192) + 64
    assert frame.canvas % 64 == 0
    assert frame.canvas >= 192


# --- merging


def view_outputs(scores, deltas=None, category=None):
    """As a method makes them of one view: scores (B, A, K), deltas (B, A, 4), category (B, C)."""
    if deltas is None:
        deltas = torch.zeros(*scores.shape[:2], 4)
    if category is None:
        category = torch.full((len(scores), 3), 1 / 3)
    return ViewOutputs(scores, category, lambda image, anchor: deltas[image, anchor])


def outputs_by_hand(k):
    """Of the model k of five, of one image with three anchors."""
    scores = torch.tensor([0.1 * k, 0.001, 0.9])
    deltas = torch.tensor([[0.5 * k, -1.0, 1.0 * k, 5.0 * (k == 4)], [9.0] * 4, [0.0] * 4])
    category = torch.tensor([0.2 * k, 1 - 0.2 * k, 0.0])
    return view_outputs(scores[None, :, None], deltas[None], category[None])


def test_merge_by_hand():
    """Five models, three anchors: means of scores, of dx, dy and of the classes; percentiles of dw
    and dh.

    The 20th percentile of 0, 1, 2, 3, 4 lies at 0.8 and the 80th at 3.2; of 0, 0, 0, 0, 5 at 0 and
    1.0.
    """
    anchors = make_anchors(SIDE, [6])[[1, 40, 4]]
    model = SimpleNamespace(anchors=anchors, image_size=SIDE)
    merged = DETECTOR.merge([outputs_by_hand(k) for k in range(5)], SETTINGS)[0]
    assert merged.location.tolist() == [2, 0]
    assert merged.deltas.shape == (5, 2, 4)

    # Twice as wide as the network's picture, and as high.
    image = ImageFacts("a", 2 * SIDE, SIDE)
    candidates = DETECTOR.to_prediction(merged, image, model, SETTINGS)
    assert candidates.score.tolist() == pytest.approx([0.9, 0.2])
    assert candidates.label.tolist() == [0, 0]
    assert candidates.category.tolist() == pytest.approx([0.4, 0.6, 0.0])

    centres, sizes = centre_size(anchors)
    x, y = centres[0].tolist()
    width, height = sizes[0].tolist()
    centre = [2 * (x + 0.1 * 1.0 * width), y - 0.1 * height]
    size20 = [2 * width * math.exp(0.2 * 0.8), height]
    size80 = [2 * width * math.exp(0.2 * 3.2), height * math.exp(0.2 * 1.0)]
    assert candidates.centre[1].tolist() == pytest.approx(centre, rel=1e-5)
    assert candidates.size20[1].tolist() == pytest.approx(size20, rel=1e-5)
    assert candidates.size80[1].tolist() == pytest.approx(size80, rel=1e-5)
    width, height = sizes[2].tolist()
    assert candidates.size20[0].tolist() == pytest.approx([2 * width, height], rel=1e-5)


def is_descending(values):
    return bool((values.diff() <= 0).all())


def descending(values):
    return values.sort(descending=True).values


def test_merge_keeps_the_best_thousand_by_descending_score():
    scores = torch.rand(2, 3000, 1)
    for i, merged in enumerate(DETECTOR.merge([view_outputs(scores)], SETTINGS)):
        assert len(merged.score) == 1000
        assert is_descending(merged.score)
        assert torch.equal(merged.score, descending(scores[i, :, 0])[:1000])
        assert torch.equal(scores[i, merged.location, 0], merged.score)
        assert not merged.label.any()


def test_merge_keeps_the_best_thousand_of_each_class():
    """A class with low scores is not crowded out, and one anchor may speak for both."""
    scores = torch.rand(1, 3000, 2) * torch.tensor([1.0, 0.1]) + torch.tensor([0.0, 0.011])
    merged = DETECTOR.merge([view_outputs(scores)], SETTINGS)[0]
    assert torch.bincount(merged.label).tolist() == [1000, 1000]
    assert is_descending(merged.score)
    assert torch.equal(scores[0, merged.location, merged.label], merged.score)
    assert merged.deltas.shape == (1, 2000, 4)
    for label in (0, 1):
        of_class = merged.score[merged.label == label]
        assert torch.equal(of_class, descending(scores[0, :, label])[:1000])


def test_no_candidates():
    anchors = make_anchors(SIDE, [6])
    model = SimpleNamespace(anchors=anchors, image_size=SIDE)
    outputs = view_outputs(torch.full((1, len(anchors), 1), 0.009))
    merged = DETECTOR.merge([outputs, outputs], SETTINGS)[0]
    candidates = DETECTOR.to_prediction(merged, ImageFacts("a", 10, 20), model, SETTINGS)
    assert candidates.score.shape == (0,)
    assert candidates.centre.shape == (0, 2)
    assert candidates.size20.shape == (0, 2)
    assert candidates.size80.shape == (0, 2)
    assert candidates.category.tolist() == pytest.approx([1 / 3] * 3)
