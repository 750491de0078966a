"""The gRPC contract: documented to the last field, guarded by roles, and its stubs fresh."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from opportune.v1 import options_pb2

PROJECT = Path(__file__).parents[2]
PROTO = PROJECT / "proto"

# Field numbers in google/protobuf/descriptor.proto; a path of them names an element of a file.
MESSAGES, ENUMS, SERVICES, EXTENSIONS = 4, 5, 6, 7
FIELDS, NESTED, NESTED_ENUMS, ONEOFS = 2, 3, 4, 8
VALUES, METHODS = 2, 2

Place = tuple[int, ...]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", PROTO / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorSet:
    """The contract with its comments, as protoc reads it."""
    out = tmp_path_factory.mktemp("contract") / "set.bin"
    names = sorted(path.relative_to(PROTO).as_posix() for path in PROTO.glob("opportune/v1/*.proto"))
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}"),
            *("--include_source_info", f"--descriptor_set_out={out}", *names),
        ],
        check=True,
    )
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def _methods(contract: descriptor_pb2.FileDescriptorSet) -> Iterator[tuple[str, str, Any]]:
    for file in contract.file:
        for service in file.service:
            for method in service.method:
                yield f"{file.package}.{service.name}", method.name, method


def _message_elements(message: Any, name: str, path: Place) -> Iterator[tuple[str, Place]]:
    yield name, path
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, FIELDS, index)
    for index, oneof in enumerate(message.oneof_decl):
        # `optional` makes a oneof of its own, which nobody wrote.
        written = any(
            f.oneof_index == index and not f.proto3_optional
            for f in message.field
            if f.HasField("oneof_index")
        )
        if written:
            yield f"{name}.{oneof.name}", (*path, ONEOFS, index)
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message_elements(nested, f"{name}.{nested.name}", (*path, NESTED, index))
    for index, enum in enumerate(message.enum_type):
        yield from _enum_elements(enum, f"{name}.{enum.name}", (*path, NESTED_ENUMS, index))


def _enum_elements(enum: Any, name: str, path: Place) -> Iterator[tuple[str, Place]]:
    yield name, path
    for index, value in enumerate(enum.value):
        yield f"{name}.{value.name}", (*path, VALUES, index)


def _elements(file: Any) -> Iterator[tuple[str, Place]]:
    for index, message in enumerate(file.message_type):
        yield from _message_elements(message, message.name, (MESSAGES, index))
    for index, enum in enumerate(file.enum_type):
        yield from _enum_elements(enum, enum.name, (ENUMS, index))
    for index, extension in enumerate(file.extension):
        yield extension.name, (EXTENSIONS, index)
    for index, service in enumerate(file.service):
        yield service.name, (SERVICES, index)
        for number, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (SERVICES, index, METHODS, number)


def test_stubs_are_what_the_contract_says(generator: ModuleType) -> None:
    assert generator.differences(PROTO / "gen") == []


def test_stale_missing_and_surplus_stubs_are_found(generator: ModuleType, tmp_path: Path) -> None:
    shutil.copytree(
        PROTO / "gen", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    package = tmp_path / "opportune" / "v1"
    (package / "types_pb2.py").write_text("# stale\n")
    (package / "options_pb2.pyi").unlink()
    (package / "surplus_pb2.py").touch()
    assert generator.differences(tmp_path) == [
        f"opportune/v1/{name}" for name in ("options_pb2.pyi", "surplus_pb2.py", "types_pb2.py")
    ]


def test_everything_has_a_comment(contract: descriptor_pb2.FileDescriptorSet) -> None:
    bare = []
    for file in contract.file:
        said = {
            tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()
        }
        bare += [f"{file.name}: {name}" for name, path in _elements(file) if path not in said]
    assert bare == []


def test_every_method_names_its_roles(contract: descriptor_pb2.FileDescriptorSet) -> None:
    faults = []
    for service, name, method in _methods(contract):
        roles = method.options.Extensions[options_pb2.roles].any_of
        if not roles or options_pb2.ROLE_UNSPECIFIED in roles or len(set(roles)) < len(roles):
            faults.append(f"{service}/{name}")
    assert faults == []


def test_every_role_opens_something(contract: descriptor_pb2.FileDescriptorSet) -> None:
    used = {
        role
        for *_, method in _methods(contract)
        for role in method.options.Extensions[options_pb2.roles].any_of
    }
    assert used == set(options_pb2.Role.values()) - {options_pb2.ROLE_UNSPECIFIED}


def test_exactly_the_idempotent_unary_methods_are_retried(
    contract: descriptor_pb2.FileDescriptorSet,
) -> None:
    config = json.loads((PROTO / "service_config.json").read_text(encoding="utf-8"))
    retried = {
        (name["service"], name["method"])
        for entry in config["methodConfig"]
        if "retryPolicy" in entry
        for name in entry["name"]
    }
    assert retried == {
        (service, name)
        for service, name, method in _methods(contract)
        if method.options.idempotency_level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN
        and not (method.client_streaming or method.server_streaming)
    }


def test_every_unary_method_has_a_deadline(contract: descriptor_pb2.FileDescriptorSet) -> None:
    config = json.loads((PROTO / "service_config.json").read_text(encoding="utf-8"))
    listed = [
        (name["service"], name["method"]) for entry in config["methodConfig"] for name in entry["name"]
    ]
    assert all(entry["timeout"].endswith("s") for entry in config["methodConfig"])
    assert sorted(listed) == sorted(
        (service, name)
        for service, name, method in _methods(contract)
        if not (method.client_streaming or method.server_streaming)
    )
