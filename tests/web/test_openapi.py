"""openapi.json: every route is in it, and real answers of all methods fit it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from test_images import make_dataset, save
from test_serve import ask, predictor, send, serving
from untrained import write_untrained_run
from xrays import png, xray

from cxr.inference.predictor import Predictor
from cxr.steps.serve.server import WEB, create_app
from cxr.tasks import TASKS

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is missing: pip install it")
DESCRIPTION = json.loads((WEB / "openapi.json").read_text())
MASK_RULE = {"rule": "first", "head": 0.0, "top": 0.0, "area": 0, "bottom": 0.0, "total": 0}
__all__ = ["predictor"]  # a fixture


def closed(schema):
    """The schema, which allows nothing that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: closed(each) for name, each in schema.items()}
    if "properties" in schema:
        schema["additionalProperties"] = False
    return schema


CLOSED = closed(DESCRIPTION["components"])


def check(answer, name):
    """Fails where an answer is not what the description calls by a name, or says more."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": CLOSED}
    jsonschema.Draft202012Validator(schema).validate(answer)


def test_every_route_and_method_is_described():
    app = create_app(SimpleNamespace())
    methods = {route.path: {name.lower() for name in route.methods} for route in app.routes}
    assert set(DESCRIPTION["paths"]) == set(methods)
    for path, described in DESCRIPTION["paths"].items():
        assert set(described) == methods[path] - {"head"}


def references(part):
    """Every $ref of the description."""
    if isinstance(part, list):
        return [found for each in part for found in references(each)]
    if not isinstance(part, dict):
        return []
    found = [part["$ref"]] if "$ref" in part else []
    for each in part.values():
        found += references(each)
    return found


def test_references_lead_somewhere():
    assert references(DESCRIPTION)
    for reference in references(DESCRIPTION):
        part = DESCRIPTION
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]
        assert part
    for schema in DESCRIPTION["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_what_does_not_fit_is_found():
    for answer in ({}, {"error": 3}, {"error": "words", "more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            check(answer, "Error")


@pytest.fixture
def contents(tmp_path):
    """Bytes of a PNG and of a DICOM of 12 bits."""
    deep = make_dataset(xray().astype(np.uint16) * 16, bits=12)
    return [
        png(tmp_path / "a.png", xray()).read_bytes(),
        save(tmp_path / "deep.dcm", deep).read_bytes(),
    ]


def answers_of(predictor, contents):
    """Checked answers of a server: of /run, and of /predict for each file."""
    with serving(predictor) as port:
        facts = json.loads(ask(port, "/run")[2])
        check(facts, "Run")
        answers = []
        for content in contents:
            status, answer = send(port, content)
            assert status == 200
            check(answer, "Prediction")
            answers.append(answer)
    return facts, answers


def test_boxes_fit(predictor, contents):
    facts, [shallow, deep] = answers_of(predictor, contents)
    assert facts["result"] == "boxes"
    assert shallow["boxes"]
    assert shallow["deep"] is None
    assert deep["deep"]["rows"] == 128


@pytest.mark.parametrize("least", [0.0, 1.0])
def test_masks_fit(tmp_path, contents, least):
    """A mask of everything, and none."""
    rule = MASK_RULE | {"head": least, "top": least}
    settings = write_untrained_run(tmp_path / "working", "pneumothorax", rule)
    facts, [answer] = answers_of(Predictor(TASKS["pneumothorax"], settings), contents[:1])
    assert facts["result"] == "mask"
    assert bool(answer["mask"]["area"]) == (least == 0)
    assert (answer["mask"]["runs"] == "-1") == (least == 1)


def test_classes_fit(tmp_path, contents):
    settings = write_untrained_run(tmp_path / "working", "covid")
    facts, [answer] = answers_of(Predictor(TASKS["covid"], settings), contents[:1])
    assert facts["result"] == "classes"
    assert len(answer["probabilities"]) == 4


def ask_studies(port, images):
    """(status, answer) of /studies."""
    body = images if isinstance(images, bytes) else json.dumps(images)
    status, _, text = ask(port, "/studies", "POST", body)
    return status, json.loads(text)


def test_studies_fit(tmp_path):
    """Two files of a study, one after the other, and what /studies makes of the answers."""
    settings = write_untrained_run(tmp_path / "working", "covid")
    contents = []
    for seed in range(2):
        dataset = make_dataset(xray(seed=seed), StudyInstanceUID="1.2.3")
        contents.append(save(tmp_path / "a.dcm", dataset).read_bytes())
    with serving(Predictor(TASKS["covid"], settings), most_list_bytes=2000) as port:
        answers = [send(port, content)[1] for content in contents]
        images = [{"study": a["study"], "probabilities": a["probabilities"]} for a in answers]
        for image in images:
            check(image, "StudyImage")
        images.append(images[0] | {"study": ""})
        status, answer = ask_studies(port, images)
        assert status == 200
        check(answer, "Studies")
        [study] = answer["studies"]
        assert (study["study"], study["images"]) == ("1.2.3", 2)
        name = next(iter(study["probabilities"]))
        mean = (images[0]["probabilities"][name] + images[1]["probabilities"][name]) / 2
        assert study["probabilities"][name] == pytest.approx(mean, abs=2e-6)
        assert ask_studies(port, []) == (200, {"studies": []})

        wrong = images[0]["probabilities"] | {name: 1.5}
        for body, expected in (
            (b"{", 422),
            ({"study": "1"}, 422),
            ([{"study": "1"}], 422),
            ([images[0], {"study": "1", "probabilities": wrong}], 422),
            ([{"study": "1" * 65, "probabilities": images[0]["probabilities"]}], 422),
            (b"[" * 1900, 422),
            (bytes(3000), 413),
        ):
            status, answer = ask_studies(port, body)
            assert status == expected
            check(answer, "Error")


def test_a_run_of_boxes_knows_no_studies(predictor):
    with serving(predictor) as port:
        status, answer = ask_studies(port, [])
        assert status == 422
        assert answer["error"] == "The classes of this run are of images, not of studies."


def test_refusals_fit(predictor):
    described = set(DESCRIPTION["paths"]["/predict"]["post"]["responses"])
    with serving(predictor, most_bytes=100) as port:
        for content, headers, expected in (
            (b"words", {}, 422),
            (bytes(200), {}, 413),
            (b"words", {"Origin": "null"}, 403),
        ):
            status, answer = send(port, content, **headers)
            assert status == expected
            assert str(status) in described
            check(answer, "Error")


def test_it_is_served_as_it_is_kept(predictor):
    with serving(predictor) as port:
        status, headers, text = ask(port, "/openapi.json")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert json.loads(text) == DESCRIPTION
