"""The OpenAPI document against what the service answers: to anybody, to requests as it says and to others."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from services import API, Service, body
from starlette.testclient import TestClient

from ssl_sweep.service import middleware
from ssl_sweep.service.states import ACTIVE, ENDED, WAITING
from ssl_sweep.spec.file import parse_spec

ALL = list(HealthCheck)
EXAMPLES = 150 if "SSL_SWEEP_FAULTS" in os.environ else 5  # an operation, a mode
STATES = (*WAITING, *ACTIVE, *ENDED)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture
def lab(service: Service, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, TestClient]]:
    """A client for each role; a sweep `alphas` of Ann's has begun."""
    shutil.copy(empty_store, service.settings.storage.root / "mlflow.db")
    monkeypatch.setattr(middleware, "PER_SECOND", 1e6)
    clients = {
        "owner": service.client("ann"),
        "admin": service.client("root", "admin"),
        "submitter": service.client("sue"),
        "viewer": service.client("vic", "viewer"),
        "nobody": service.client(None),
    }
    yield clients
    for client in clients.values():
        client.close()


def restore(service: Service, owner: TestClient, state: str) -> None:
    """`alphas`, in this state, whatever was done to it."""
    if service.store.get("alphas") is None:
        (service.settings.storage.root / "ledger.db").unlink(missing_ok=True)
        assert owner.post(f"{API}/sweeps", json=body(name="alphas")).status_code == 201
        service.begun("alphas").ask()
    service.store.change(service.now("alphas"), state=state, asked=None)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_what_is_answered_is_as_the_document_says(
    service: Service, lab: dict[str, TestClient], mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(lab["nobody"].get("/openapi.json").json())
    seen: set[int] = set()
    for found in schema.get_all_operations():
        ask(service, lab, found.ok(), mode, seen)
    expected = {200, 401, 403, 404, 409, 422} if mode is GenerationMode.POSITIVE else {401, 403, 422}
    assert seen >= expected


def ask(service: Service, lab: dict[str, TestClient], operation: Any, mode: GenerationMode, seen: set[int]) -> None:
    """Send what the document lets one send to an operation, or what it does not."""
    path = {} if mode is GenerationMode.NEGATIVE or "{name}" not in operation.path else {"name": "alphas"}
    states = ENDED if operation.path.endswith("/events") else STATES  # else its answer would not end
    drawn = st.one_of(operation.as_strategy(mode), operation.as_strategy(mode, path_parameters=path))

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(drawn, st.sampled_from(sorted(lab)), st.sampled_from(states))
    def answered(case: Any, role: str, state: str) -> None:
        restore(service, lab["owner"], state)
        headers = dict(case.headers or {})
        case.headers = {**headers, **{k: v for k, v in lab[role].headers.items() if k == "authorization"}}
        answer = case.call(base_url="http://sweeps.lab", session=None, app=service.app)
        seen.add(answer.status_code)
        invalid = mode is GenerationMode.NEGATIVE and answer.status_code != 413  # that is no refusal to the check
        case.validate_response(answer, checks=[*CHECKS, *([negative_data_rejection] if invalid else [])])

    answered()


# the document itself


@pytest.fixture
def document(service: Service) -> dict[str, Any]:
    told: dict[str, Any] = service.client(None).get("/openapi.json").json()
    return told


def shown(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], list[Any]]]:
    """Every parameter, body and answer: its place, its schema, and its examples."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for each in operation.get("parameters", ()):
                yield f"{method} {path} {each['name']}", each["schema"], each["schema"].get("examples", [])
            contents = {"body": operation.get("requestBody", {}), **operation["responses"]}
            for name, each in contents.items():
                for kind, content in each.get("content", {}).items():
                    schema = resolved(document, content["schema"])
                    examples = [content["example"]] if "example" in content else schema.get("examples", [])
                    yield f"{method} {path} {name} {kind}", schema, examples


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def test_everything_has_an_example_that_is_right(document: dict[str, Any]) -> None:
    found = list(shown(document))
    assert len(found) > 100
    assert [place for place, _, examples in found if not examples] == []
    for place, schema, examples in found:
        whole = {**schema, "components": document["components"]}
        for example in examples:
            errors = list(jsonschema.Draft202012Validator(whole).iter_errors(example))
            assert not errors, f"{place}: {errors[0].message}"


def test_an_example_is_a_sweep_that_is_taken(ann: TestClient, document: dict[str, Any], service: Service) -> None:
    (example,) = document["components"]["schemas"]["Submit"]["examples"]
    parse_spec(example["spec"], "example", example["overrides"], service.settings.data_roots[0])
    made = ann.post(f"{API}/sweeps", json=example)
    assert made.status_code == 201
    (sweep,) = document["components"]["schemas"]["Sweep"]["examples"]
    assert made.json().keys() >= sweep.keys()  # FastAPI leaves nulls out of its document
    assert made.json()["counts"].keys() >= sweep["counts"].keys()


def test_refusals_are_declared_where_they_occur(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            statuses = set(operation["responses"])
            assert statuses >= {"401", "403", "413", "429", "503"}, path
            assert ("404" in statuses) == ("{name}" in path or path.endswith("/table")), path
            assert ("422" in statuses) == ("parameters" in operation or "requestBody" in operation), path
            assert ("400" in statuses) == ("requestBody" in operation), path
            assert ("409" in statuses) == (
                (method != "get" and not path.endswith("/plan")) or path.endswith(("/table", "/report"))
            ), path
            assert operation["security"] == [{"HTTPBearer": []}]


def test_an_answer_that_has_not_changed_is_not_sent_again(ann: TestClient, service: Service) -> None:
    ann.post(f"{API}/sweeps", json=body())
    for path in ("/sweeps", "/sweeps/tiny", "/sweeps/tiny/trials"):
        first = ann.get(f"{API}{path}")
        tag = {"If-None-Match": first.headers["ETag"]}
        again = ann.get(f"{API}{path}", headers=tag)
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
        service.begun()
        if not path.endswith("trials"):
            changed = ann.get(f"{API}{path}", headers=tag)
            assert (changed.status_code, changed.headers["ETag"]) != (304, first.headers["ETag"])
        service.store.change(service.now(), state="QUEUED")
