"""FCOS: targets and losses by hand, coding, views, and that it learns two images by heart."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cxr.data.batch import Sample, collate
from cxr.geometry.anchors import decode_boxes, encode_boxes, flip_index
from cxr.geometry.boxes import box_iou, centre_size
from cxr.method_settings import DetectorSettings
from cxr.methods.base import MIRRORED, PLAIN, ImageFacts, Labels, View
from cxr.methods.detector.fcos import (
    FcosHead,
    PointMatcher,
    boxes_about,
    edge_distances,
    encode_distances,
    true_centreness,
)
from cxr.methods.detector.heads import frame_of
from cxr.methods.detector.image_scorer import RsnaMap
from cxr.methods.detector.method import Detector
from cxr.methods.detector.records import Params, detect
from cxr.networks.fcos import make_point_squares, point_levels
from cxr.settings import make_settings
from cxr.steps.export.onnx_files import write_fp32
from edge_predict import Predictor

LABELS = Labels(("one", "two"), ("no", "yes"))
NO_BOXES = torch.zeros(0, 4)
DETECTOR = Detector()
HEAD = FcosHead()
VALUES = {
    "head": "fcos",
    "encoder": "tu-resnet10t",
    "weights": "none",
    "levels": "3-5",
    "image_size": 256,
    "channels": 32,
    "head_convs": 1,
    "head_norm": "group",
    "dropout": 0.0,
}


def settings_with(**values):
    return make_settings(VALUES | values, DetectorSettings)


def build(**values):
    torch.manual_seed(0)
    return DETECTOR.build_model(settings_with(**values), LABELS)


@pytest.fixture(scope="module")
def network():
    """With random but lively outputs."""
    model = build().eval()
    for head in (model.score_head, model.box_head):
        nn.init.normal_(head[-1].weight, std=0.05)
    nn.init.zeros_(model.score_head[-1].bias)
    with torch.no_grad():
        model.level_scales.copy_(torch.tensor([1.0, 0.8, 1.2]))
    return model


def match(image_size, levels, boxes, labels=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.arange(len(boxes)) if labels is None else torch.tensor(labels)
    return PointMatcher(image_size, levels)(boxes, labels)


def random_images(count, side=256):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8, generator=generator)


def make_batch(images, boxes_and_labels, settings):
    make_target = DETECTOR.make_target(settings)
    samples = []
    for row, (boxes, labels) in enumerate(boxes_and_labels):
        target = make_target(boxes, labels)
        samples.append(Sample(images[row], boxes, labels, 0, row, target=target))
    return collate(samples)


def test_points_stand_in_the_middle_of_the_cells():
    points, size = centre_size(make_point_squares(64, (3, 4)))
    assert len(points) == 64 + 16
    assert points[[0, 1, 8, 64, -1]].tolist() == [[4, 4], [12, 4], [4, 12], [8, 8], [56, 56]]
    assert size[[0, -1]].tolist() == [[32, 32], [64, 64]]
    assert point_levels(64, (3, 4)).tolist() == [3] * 64 + [4] * 16


def test_targets_by_hand():
    """Of the points at 4, 12, 20, 28 ... those at 20 and 28 lie in the box, and all of them within
    12 pixels of its centre."""
    target = match(64, (3, 4), [[16, 16, 32, 32]], labels=[5])
    assert target["positive"].tolist() == [18, 19, 26, 27]
    assert target["goal"][:2].tolist() == [[4, 4, 12, 12], [12, 4, 4, 12]]
    assert target["positive_label"].tolist() == [5] * 4
    assert len(target["ignored"]) == 0
    assert true_centreness(target["goal"]).tolist() == pytest.approx([1 / 3] * 4)


def test_only_points_near_the_centre_learn_a_box():
    """Of a box from 4 to 60 the points at 20, 28, 36 and 44 are within 12 pixels of 32."""
    target = match(64, (3, 4), [[4, 4, 60, 60]])
    columns = target["positive"] % 8
    assert len(target["positive"]) == 16
    assert columns.unique().tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    "side, level, points",
    [(80, 3, 16), (140, 4, 16), (400, 4, 16)],  # 4 x 4 points within 1.5 strides of the centre
)
def test_the_size_of_a_box_decides_the_level(side, level, points):
    """Its farthest edge is at most 8 strides of the first level away, or more."""
    low = 128 - side / 2
    target = match(256, (3, 4), [[low, low, low + side, low + side]])
    levels = point_levels(256, (3, 4))[target["positive"]]
    assert levels.tolist() == [level] * points


def test_the_smallest_box_owns_a_point():
    target = match(64, (3, 4), [[0, 0, 64, 64], [16, 16, 40, 40], [8, 8, 56, 56]])
    owner = dict(zip(target["positive"].tolist(), target["positive_label"].tolist(), strict=True))
    assert owner[3 * 8 + 3] == 1
    assert owner[5 * 8 + 5] == 2  # at 44, outside the small box


def test_no_boxes():
    target = match(64, (3, 4), [])
    shapes = {name: tuple(tensor.shape) for name, tensor in target.items()}
    assert shapes == {"positive": (0,), "goal": (0, 4), "positive_label": (0,), "ignored": (0,)}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_distances_and_deltas_give_the_box_back(seed, count):
    generator = torch.Generator().manual_seed(seed)
    corner = 150 * torch.rand(count, 2, generator=generator)
    boxes = torch.cat([corner, corner + 20 + 80 * torch.rand(count, 2, generator=generator)], 1)
    matcher = PointMatcher(256, (3, 4, 5))
    target = matcher(boxes, torch.arange(count))
    assert len(target["positive"])
    points = matcher.points[target["positive"]]
    owned = boxes[target["positive_label"]]
    decoded = boxes_about(points, target["goal"])
    assert torch.allclose(decoded, owned, atol=1e-4)
    assert torch.allclose(edge_distances(points, owned), target["goal"])
    squares = make_point_squares(256, (3, 4, 5))[target["positive"]]
    deltas = encode_distances(target["goal"][None], squares)[0]
    assert torch.allclose(deltas, encode_boxes(decoded, squares), atol=1e-4)
    assert torch.allclose(decode_boxes(deltas, squares), owned, atol=1e-3)


def test_what_the_network_says(network):
    with torch.inference_mode():
        outputs = network(random_images(2))
    points = 32**2 + 16**2 + 8**2
    shapes = {name: tuple(output.shape) for name, output in outputs.items()}
    assert shapes == {
        "scores": (2, points, 2),
        "distances": (2, points, 4),
        "centreness": (2, points, 1),
        "category": (2, 2),
    }
    assert all(output.isfinite().all() for output in outputs.values())
    assert (outputs["distances"] > 0).all()


def test_first_distances_are_four_strides():
    with torch.inference_mode():
        distances = build().eval()(random_images(1))["distances"][0]
    strides = 2.0 ** point_levels(256, (3, 4, 5))
    assert torch.allclose(distances, 4 * strides[:, None].expand(-1, 4))


def test_outputs_of_some_points_are_those_of_the_whole_maps(network):
    images = random_images(2)
    image = torch.tensor([0, 1, 1, 0])
    point = torch.tensor([5, 1023, 1024, 1343])
    with torch.inference_mode():
        every = network(images)
        some = network(images, (image, point))
    assert torch.allclose(some["distances"], every["distances"][image, point], rtol=1e-4)
    assert torch.allclose(some["centreness"], every["centreness"][image, point], atol=1e-4)


def test_losses_by_hand():
    """One class, all probabilities 0.5. A perfect box costs nothing; one of 8 x 8 inside its 16 x
    16, at the same corner, has a GIoU of 1/4."""
    settings = settings_with(image_size=192, classes=1)
    model = build(image_size=192, classes=1).eval()
    box = torch.tensor([[16.0, 16, 32, 32]])
    label = torch.zeros(1, dtype=torch.long)
    batch = make_batch(random_images(2, 192), [(box, label), (NO_BOXES, label[:0])], settings)
    goal = batch.target["goal"]
    points = len(model.anchors)
    outputs = {
        "scores": torch.zeros(2, points, 1),
        "distances": goal.clone(),
        "centreness": torch.zeros(len(goal), 1),
    }
    terms = HEAD.loss(outputs, batch, model, settings)
    negative = 0.75 * 0.25 * math.log(2)
    positive = 0.25 * 0.25 * math.log(2)
    class_loss = ((points - 4) * negative + 4 * positive) / 4 + points * negative
    assert float(terms["class"]) == pytest.approx(class_loss / 2, rel=1e-5)
    assert float(terms["box"]) == pytest.approx(0, abs=1e-6)
    assert float(terms["centre"]) == pytest.approx(math.log(2) / 2)

    x1, y1, _, _ = (-goal).unbind(1)  # the points' box from its own corner
    outputs["distances"] = torch.stack([-x1, -y1, x1 + 8, y1 + 8], 1)
    terms = HEAD.loss(outputs, batch, model, settings)
    assert float(terms["box"]) == pytest.approx((1 - 1 / 4) / 2, rel=1e-5)


@pytest.mark.parametrize("divide_by", ["image", "running"])
def test_whole_maps_and_selected_points_have_the_same_loss(network, divide_by):
    """A compiled network is not told where boxes are."""
    settings = settings_with(divide_by=divide_by)
    boxes = torch.tensor([[30.0, 40, 120, 150], [100, 100, 180, 160]])
    examples = [(boxes, torch.tensor([0, 1])), (NO_BOXES, torch.zeros(0, dtype=torch.long))]
    batch = make_batch(random_images(2), examples, settings)
    inputs = DETECTOR.network_inputs(batch, settings)
    with torch.inference_mode():
        whole = DETECTOR.loss(network(batch.images), batch, network, settings)
        selected = DETECTOR.loss(network(batch.images, *inputs), batch, network, settings)
    assert list(whole) == ["class", "box", "centre", "global"]
    for name, term in whole.items():
        assert float(term) == pytest.approx(float(selected[name]), rel=1e-4)


def flip_outputs(outputs, side, levels):
    """What an ideal network would say of the mirrored images."""
    index = flip_index(side, levels, 1)
    mirrored = {name: output[:, index] for name, output in outputs.items() if name != "category"}
    mirrored["distances"] = mirrored["distances"][..., [2, 1, 0, 3]]
    return mirrored | {"category": outputs["category"]}


def every_delta(view_outputs):
    images, points = view_outputs.scores.shape[:2]
    image = torch.arange(images).repeat_interleave(points)
    return view_outputs.deltas_at(image, torch.arange(points).repeat(images))


def test_a_mirrored_view_is_undone(network):
    with torch.inference_mode():
        outputs = network(random_images(2))
        mirrored = flip_outputs(outputs, 256, network.levels)
        plain = HEAD.undo_view(outputs, PLAIN, network)
        undone = HEAD.undo_view(mirrored, MIRRORED, network)
    assert torch.equal(plain.scores, undone.scores)
    assert torch.equal(plain.category, undone.category)
    assert torch.allclose(every_delta(plain), every_delta(undone), atol=1e-3)


@pytest.mark.parametrize("thirds", [1, -1])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("side", [40, 60, 100, 150])
def test_a_scaled_view_is_undone(thirds, mirrored, side):
    """An ideal network sees the scaled box where its points look for one, and nothing elsewhere;
    brought back, the best point has the box itself."""
    image_size = 512
    model = build(image_size=image_size)
    box = torch.tensor([[200.0, 180, 200 + side, 180 + 1.2 * side]])
    view = View(thirds, mirrored)
    images = torch.zeros(1, 1, image_size, image_size, dtype=torch.uint8)
    frame = frame_of(view, model)
    assert DETECTOR.apply_view(images, view, model).shape[-1] == frame.canvas
    seen = box * (frame.content / image_size)
    if mirrored:
        right = frame.content
        seen = torch.stack([right - seen[:, 2], seen[:, 1], right - seen[:, 0], seen[:, 3]], 1)
    matcher = PointMatcher(frame.canvas, model.levels)
    target = matcher(seen, torch.tensor([0]))
    points = len(matcher.points)
    scores = torch.full((1, points, 2), -9.0)
    scores[0, target["positive"], 0] = 4.0
    outputs = {
        "scores": scores,
        "distances": edge_distances(matcher.points, seen).abs()[None],
        "centreness": torch.full((1, points, 1), 4.0),
        "category": torch.zeros(1, 2),
    }
    undone = HEAD.undo_view(outputs, view, model)
    assert undone.scores.shape == (1, len(model.anchors), 2)

    # The points that learn the box in the plain image have it from the scaled one, too.
    plain = PointMatcher(image_size, model.levels)(box, torch.tensor([0]))["positive"]
    centre_of_plain, _ = centre_size(model.anchors[plain])
    box_centre, _ = centre_size(box)
    nearest = plain[(centre_of_plain - box_centre).norm(dim=1).argmin()]
    assert undone.scores[0, nearest, 0] > 0.9
    deltas = undone.deltas_at(torch.zeros(1, dtype=torch.long), nearest[None])
    decoded = decode_boxes(deltas, model.anchors[nearest[None]])
    assert torch.allclose(decoded, box, atol=0.05)


def test_merged_views_give_candidates(network):
    settings = settings_with(tta="flip+scale", candidate_floor=0.0, candidates=20)
    views = (PLAIN, MIRRORED)
    outputs = []
    with torch.inference_mode():
        for view in views:
            images = DETECTOR.apply_view(random_images(2), view, network)
            raw = DETECTOR.raw_outputs(network, images)
            outputs.append(DETECTOR.undo_view(raw, view, network))
        merged = DETECTOR.merge(outputs, settings)
        image = ImageFacts("a", 512, 128)
        candidates = DETECTOR.to_prediction(merged[0], image, network, settings)
    assert len(merged) == 2
    assert candidates.centre.shape == candidates.size20.shape == (40, 2)
    assert (candidates.size20 <= candidates.size80).all()
    assert (candidates.score[:-1] >= candidates.score[1:]).all()
    assert set(candidates.label) == {0, 1}

    # One view alone has the box that its point gave, in pixels of the original.
    alone = DETECTOR.merge(outputs[:1], settings)[0]
    candidates = DETECTOR.to_prediction(alone, image, network, settings)
    with torch.inference_mode():
        distances = network(random_images(2))["distances"][0]
    points, _ = centre_size(network.anchors)
    box = boxes_about(points, distances)[alone.location[0]]
    expected = (box[:2] + box[2:]) / 2 * torch.tensor([2, 0.5])
    assert candidates.centre[0].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize("engine", ["onnxruntime", "opencv"])
def test_an_exported_file_says_the_same(network, tmp_path, engine):
    """Scores and boxes of both views, without PyTorch, and so the final boxes."""
    settings = settings_with(candidate_floor=0.05, candidates=50)
    params = Params(merge="wbf", score_floor=0.05, threshold=0.3, scale=0.9)
    rule = RsnaMap((0.1, 1.0), ()).export_rule(vars(params), settings, LABELS)
    contents = {
        "format": 2,
        "head": "fcos",
        "models": 1,
        "flip": True,
        "image_size": 256,
        "stored_size": 256,
        "levels": list(network.levels),
        "floor": 0.05,
        "most": 50,
        "rule": rule | {"thresholds": [0.06, 0.06]},
    }
    path = tmp_path / "fcos.onnx"
    write_fp32(path, [network], contents, Detector.export)
    picture = random_images(1)[0, 0]
    predictor = Predictor(path, engine)
    of_file = predictor.look(picture.numpy())

    outputs = []
    with torch.inference_mode():
        for view in (PLAIN, MIRRORED):
            shown = DETECTOR.apply_view(picture[None, None], view, network)
            outputs.append(DETECTOR.undo_view(network(shown), view, network))
        scores = torch.stack([each.scores[0] for each in outputs]).mean(0)
        deltas = torch.stack([every_delta(each) for each in outputs])
        merged = DETECTOR.merge(outputs, settings)
    assert torch.allclose(torch.from_numpy(of_file.scores), scores, atol=1e-5)
    assert torch.allclose(torch.from_numpy(of_file.deltas), deltas, atol=1e-3)

    image = ImageFacts("a", 700, 500)
    candidates = DETECTOR.to_prediction(merged[0], image, network, settings)
    expected = detect(candidates, params, (0.1, 1.0))
    boxes = predictor(picture.numpy(), (700, 500))
    assert len(expected) >= 3
    kept = boxes["kept"]
    assert boxes["boxes"][kept] == pytest.approx(expected.boxes, abs=0.05)
    assert boxes["labels"][kept].tolist() == expected.labels.tolist()


@pytest.mark.slow
def test_two_images_are_learned_by_heart():
    """The losses fall, and the boxes are found."""
    settings = settings_with(image_size=192, lr=1e-3)
    model = build(image_size=192)
    images = torch.full((2, 1, 192, 192), 40, dtype=torch.uint8)
    boxes = [torch.tensor([[40.0, 50, 90, 120]]), torch.tensor([[100.0, 20, 160, 70]])]
    for image, box in zip(images, boxes, strict=True):
        x1, y1, x2, y2 = box[0].int().tolist()
        image[:, y1:y2, x1:x2] = 200
    labels = [torch.tensor([0]), torch.tensor([1])]
    batch = make_batch(images, list(zip(boxes, labels, strict=True)), settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(60):
        outputs = model(batch.images, *DETECTOR.network_inputs(batch, settings))
        terms = DETECTOR.loss(outputs, batch, model, settings)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append({name: float(term.detach()) for name, term in terms.items()})
    assert history[-1]["class"] < 0.2 * history[0]["class"]
    assert history[-1]["box"] < 0.3 * history[0]["box"]
    assert history[-1]["centre"] < history[0]["centre"]

    with torch.inference_mode():  # batch norm still in training mode, since two images are few
        quick = DETECTOR.quick_predictions(model(batch.images), batch, model, settings)
    for row in (0, 1):
        best = quick[row].detections
        assert best.labels[0] == row
        assert box_iou(torch.tensor(best.boxes[:1]), boxes[row]) > 0.7
