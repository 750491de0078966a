"""What the client package shows, and that it says the same as the contract."""

from __future__ import annotations

import inspect
from enum import IntEnum
from pathlib import Path
from types import ModuleType

import opportune_client
import pytest
from opportune.v1 import rulebase_service_pb2, subscriber_service_pb2, types_pb2
from opportune_client import (
    ActivationMode,
    Encoding,
    ImportMode,
    OutcomeKind,
    Reason,
    RejectionReason,
    RulebaseEvent,
    RulebaseState,
    errors,
    testing,
)

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", [opportune_client, testing])
def test_all_is_sorted_and_complete(module: ModuleType) -> None:
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(module.__all__) == public
    assert module.__all__ == sorted(module.__all__)


def test_every_export_is_documented() -> None:
    undocumented = [
        name for name in opportune_client.__all__ if not inspect.getdoc(getattr(opportune_client, name))
    ]
    assert undocumented == []


def test_every_error_is_exported_and_drawn() -> None:
    tree = inspect.getdoc(errors) or ""
    names = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.OpportuneError)
    }
    assert names <= set(opportune_client.__all__)
    assert all(name in tree for name in names)


@pytest.mark.parametrize(
    ("words", "wire", "prefix"),
    [
        (ActivationMode, types_pb2.ActivationMode, "ACTIVATION_MODE_"),
        (RulebaseState, rulebase_service_pb2.RulebaseState, "RULEBASE_STATE_"),
        (RulebaseEvent, rulebase_service_pb2.RulebaseEventKind, "RULEBASE_EVENT_KIND_"),
        (Encoding, types_pb2.AttributesEncoding, "ATTRIBUTES_ENCODING_"),
        (ImportMode, subscriber_service_pb2.ImportMode, "IMPORT_MODE_"),
        (OutcomeKind, types_pb2.OutcomeKind, "OUTCOME_KIND_"),
        (Reason, types_pb2.Reason, "REASON_"),
        (RejectionReason, types_pb2.RejectionReason, "REJECTION_REASON_"),
    ],
)
def test_enumerations_are_those_of_the_contract(words: type[IntEnum], wire: object, prefix: str) -> None:
    ours = {word.name: word.value for word in words}
    ours.setdefault("UNSPECIFIED", 0)
    assert ours == {name.removeprefix(prefix): number for name, number in wire.items()}  # type: ignore[attr-defined]


def test_service_config_is_the_published_one() -> None:
    published = (PROJECT / "proto" / "service_config.json").read_text("utf-8")
    assert opportune_client.service_config() == published


def test_typed() -> None:
    assert (Path(opportune_client.__file__).parent / "py.typed").is_file()
