"""Under torchrun a step waits for a gradient of each parameter that learns: whether all get one."""

import pytest
import torch

from cxr.data.batch import Sample, collate
from cxr.steps.train import joined
from cxr.steps.train.joined import JoinedNetwork, idle_parameters
from cxr.system.runtime import Runtime
from cxr.tasks import TASKS

CPU = torch.device("cpu")


def small_settings(name, preset):
    """Of a preset, with a small encoder and small images."""
    task = TASKS[name]
    settings = task.settings_of({"task": name, "preset": preset, "weights": "none"})
    if task.method.name == "detector":
        return settings.replace(encoder="tu-test_resnet", image_size=256, channels=16)
    return settings.replace(encoder="resnet18", image_size=64)


def networks_of_presets():
    """(task, preset) of each kind of network that a preset has."""
    seen = set()
    pairs = []
    for name, task in TASKS.items():
        for preset in task.presets:
            settings = small_settings(name, preset)
            method = settings.method
            shown = ("levels", "head", "head_norm", "decoder", "mask_loss", "label_head")
            values = [str(getattr(method, each, "")) for each in shown]
            kind = (task.method.name, getattr(method, "aux_weight", 0) > 0, *values)
            if kind not in seen:
                seen.add(kind)
                pairs.append((name, preset))
    return pairs


def build(task, settings):
    return task.method.build_model(settings, task.used_labels(settings), load_weights=False)


@pytest.mark.parametrize("name, preset", networks_of_presets())
def test_every_parameter_of_a_preset_gets_a_gradient(name, preset):
    task = TASKS[name]
    settings = small_settings(name, preset)
    model = build(task, settings).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert idle_parameters(model, task.method, settings) == []
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("head", ["retinanet", "fcos"])
@pytest.mark.parametrize("boxes", [0, 2])
@pytest.mark.parametrize("weights", [{}, {"global_weight": 0.0, "class_weight": 0.0}])
def test_every_parameter_of_a_detector_gets_a_gradient_in_a_step(head, boxes, weights):
    """With images without boxes and losses that weigh nothing, too."""
    task = TASKS["rsna"]
    settings = small_settings("rsna", "demo").replace(head=head, image_size=192, **weights)
    model = build(task, settings).train()
    make_target = task.method.make_target(settings)
    corners = torch.tensor([[20.0, 30.0, 90.0, 110.0], [100.0, 90.0, 150.0, 180.0]])[:boxes]
    samples = []
    for row in range(2):
        image = torch.randint(0, 255, (1, 192, 192), dtype=torch.uint8)
        labels = torch.zeros(boxes, dtype=torch.long)
        sample = Sample(image=image, boxes=corners, labels=labels, label=-1, row=row)
        sample.target = make_target(corners, labels)
        samples.append(sample)
    batch = collate(samples)
    outputs = model(batch.images, *task.method.network_inputs(batch, settings))
    sum(task.method.loss(outputs, batch, model, settings).values()).backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert idle == []


@pytest.mark.parametrize(
    "mask_loss, idle", [("bce=1", "label_head"), ("label=1", "mask_head"), ("bce=1,label=1", "")]
)
def test_a_head_without_a_loss_is_idle(mask_loss, idle):
    task = TASKS["pneumothorax"]
    settings = small_settings("pneumothorax", "small")
    settings = settings.replace(mask_loss=mask_loss, label_head="linear")
    names = idle_parameters(build(task, settings), task.method, settings)
    assert bool(names) == bool(idle)
    if idle:
        assert any(name.startswith(idle) for name in names)


def test_the_network_is_wrapped_anew_when_the_encoder_begins_to_learn(monkeypatch):
    made = []

    class Wrapper:
        def __init__(self, network, find_unused_parameters):
            made.append(find_unused_parameters)

    monkeypatch.setattr(joined, "DistributedDataParallel", Wrapper)
    task = TASKS["rsna"]
    settings = small_settings("rsna", "demo").replace(image_size=192)
    model = build(task, settings)
    network = JoinedNetwork(model, task.method, settings, Runtime(CPU, "fp32", world=2))
    model.freeze_encoder(True)
    first = network.now()
    assert network.now() is first
    model.freeze_encoder(False)
    assert network.now() is not first
    assert made == [False, False]
    alone = JoinedNetwork(model, task.method, settings, Runtime(CPU, "fp32"))
    assert alone.now() is model
