"""Files for containers and clusters against the schemas of those who read them, offline."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
kubernetes = pytest.importorskip("kubernetes_validate")
jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("check_jsonschema")
DEPLOY = Path(__file__).parents[2] / "deploy"
# The oldest cluster that is served, and the newest whose schemas are at hand.
VERSIONS = ("1.27", kubernetes.latest_version().rpartition(".")[0])
DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|[smhdwy]))+$"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def documents(name: str) -> list[dict]:
    return [d for d in yaml.safe_load_all((DEPLOY / name).read_text()) if d is not None]


def of_kind(kind: str, name: str = "") -> dict:
    found = [d for d in documents("kubernetes/foretell.yaml") if d["kind"] == kind]
    return next(d for d in found if name in d["metadata"]["name"])


def composition() -> Any:
    """The validator of the compose specification, as check-jsonschema carries it."""
    file = files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json")
    schema = json.loads(file.read_text("utf-8"))
    assert schema["title"] == "Compose Specification"
    return jsonschema.validators.validator_for(schema)(schema)


# Prometheus publishes no schema of its rules: this is what its documentation of recording and
# alerting rules names, all of it.
RULES = {
    "type": "object",
    "required": ["groups"],
    "additionalProperties": False,
    "properties": {
        "groups": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "rules"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "interval": DURATION,
                    "query_offset": DURATION,
                    "limit": {"type": "integer", "minimum": 0},
                    "labels": TEXTS,
                    "rules": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["expr"],
                            "oneOf": [{"required": ["alert"]}, {"required": ["record"]}],
                            "additionalProperties": False,
                            "properties": {
                                "alert": {"type": "string", "minLength": 1},
                                "record": {
                                    "type": "string",
                                    "pattern": "^[a-zA-Z_:][a-zA-Z0-9_:]*$",
                                },
                                "expr": {"type": ["string", "number"]},
                                "for": DURATION,
                                "keep_firing_for": DURATION,
                                "labels": TEXTS,
                                "annotations": TEXTS,
                            },
                        },
                    },
                },
            },
        }
    },
}


def put(told: dict, path: tuple, value: Any) -> dict:
    """A copy with one thing changed; a value of ``...`` takes it away."""
    out = copy.deepcopy(told)
    held = out
    for part in path[:-1]:
        held = held[part]
    if value is ...:
        del held[path[-1]]
    else:
        held[path[-1]] = value
    return out


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_one_of_kubernetes(version):
    found = documents("kubernetes/foretell.yaml")
    kinds = {d["kind"] for d in found}
    assert {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler",
            "NetworkPolicy"} == kinds  # fmt: skip
    for one in found:
        # A kind without a schema is an error here, too.
        assert kubernetes.validate(one, version, strict=True) == version


_POD = ("spec", "template", "spec")


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "replica"), 2),
        ("Deployment", ("spec", "replicas"), "2"),
        ("Deployment", ("spec", "selector"), ...),
        ("Deployment", (*_POD, "containers", 0, "image"), 1),
        ("Deployment", (*_POD, "containers", 0, "ports", 0, "containerPort"), "http"),
        ("Deployment", (*_POD, "containers", 0, "livenessProbe", "httpget"), {}),
        ("Deployment", (*_POD, "containers", 0, "args"), "serve"),
        ("Deployment", (*_POD, "securityContext", "runAsRoot"), False),
        ("Deployment", (*_POD, "affinity", "podAntiAffinity",
                        "requiredDuringSchedulingIgnoredDuringExecution", 0, "topologyKey"), ...),
        ("Deployment", (*_POD, "volumes", 0, "configmap"), {"name": "foretell-config"}),
        ("PodDisruptionBudget", ("spec", "minavailable"), 1),
        ("PodDisruptionBudget", ("spec", "selector", "matchLabels"), ["foretell"]),
        ("HorizontalPodAutoscaler", ("spec", "maxReplicas"), ...),
        ("HorizontalPodAutoscaler", ("spec", "metrics", 0, "resource", "target", "type"), ...),
        ("HorizontalPodAutoscaler", ("spec", "metrics", 1, "external", "metrics"), {}),
        ("Service", ("spec", "ports", 0, "port"), "mllp"),
        ("NetworkPolicy", ("spec", "ingress", 0, "ports", 0, "name"), "mllp"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_wrong_is_found(kind, path, value):
    wrong = put(of_kind(kind), path, value)
    for version in VERSIONS:
        with pytest.raises(kubernetes.ValidationError):
            kubernetes.validate(wrong, version, strict=True)


def test_a_kind_or_version_that_there_is_not_is_found():
    for path, value in ((("apiVersion",), "policy/v1beta7"), (("kind",), "PodDisruptionsBudget")):
        with pytest.raises(kubernetes.SchemaNotFoundError):
            kubernetes.validate(
                put(of_kind("PodDisruptionBudget"), path, value), VERSIONS[-1], strict=True
            )


def test_the_composition_is_one_of_the_specification():
    (told,) = documents("compose.yaml")
    assert [e.message for e in composition().iter_errors(told)] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("service",), {}),
        (("services", "door", "comand"), ["serve"]),
        (("services", "door", "ports"), "8080:8080"),
        (("services", "door", "read_only"), 3),
        (("services", "worker", "deploy", "replicas"), [2]),
        (("services", "worker", "depends_on", "store", "condition"), "service_ready"),
        (("services", "store", "healthcheck", "retry"), 20),
        (("services", "prometheus", "restart"), True),
        (("volumes", "keys", "drivers"), "local"),
    ],
)
def test_a_composition_that_is_wrong_is_found(path, value):
    (told,) = documents("compose.yaml")
    assert not composition().is_valid(put(told, path, value))


def test_rules_are_those_of_prometheus():
    (told,) = documents("prometheus/alerts.yml")
    jsonschema.Draft202012Validator.check_schema(RULES)
    check = jsonschema.Draft202012Validator(RULES)
    assert [e.message for e in check.iter_errors(told)] == []
    rule = ("groups", 0, "rules", 0)
    for path, value in (
        ((*rule, "fore"), "5m"), ((*rule, "expr"), ...), ((*rule, "for"), "five minutes"),
        ((*rule, "labels", "severity"), 1), ((*rule, "record"), "a:b"),
        (("groups", 0, "name"), ...), (("group",), []),
    ):  # fmt: skip
        assert not check.is_valid(put(told, path, value)), path
