"""Text in, immutable `Rulebase` out: `load`, and the order in which the parts of a rulebase are read."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from opportune_rulebase.errors import Position, RulebaseError
from opportune_rulebase.expressions import Scope
from opportune_rulebase.loading.archive import check_files
from opportune_rulebase.loading.campaigns import Known, campaign_nodes, read_campaign
from opportune_rulebase.loading.conditions import Conditions, never_true
from opportune_rulebase.loading.definitions import (
    RawDefinitions,
    compile_definitions,
    compile_metrics,
    read_definitions,
)
from opportune_rulebase.loading.fields import Fields, check_name
from opportune_rulebase.loading.matrix import read_matrix
from opportune_rulebase.loading.policies import Names, cap_names, read_policies
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.source import (
    MAX_YAML_BYTES,
    Budget,
    MapNode,
    Node,
    ScalarNode,
    SourceFile,
    decode,
    documents,
)
from opportune_rulebase.loading.tables import MAX_TABLE_BYTES, read_cells, read_terminals
from opportune_rulebase.loading.vocabulary import RawVocabulary, read_vocabulary, with_needs
from opportune_rulebase.model import Campaign, Definition, Rulebase, Tables
from opportune_rulebase.variables import declared

_SINGLE: Final = (
    "rulebase.yaml",
    "vocabulary.yaml",
    "behaviours.yaml",
    "scenes.yaml",
    "matrix.yaml",
    "policies.yaml",
)
_REQUIRED: Final = ("rulebase.yaml", "vocabulary.yaml")
_DECLARING: Final = frozenset({"vocabulary.yaml", "behaviours.yaml", "scenes.yaml"})
_CAMPAIGNS: Final = "campaigns/"
_ASIDE: Final = ("tests/", "mappings/")
"""Folders of tools that travel with a rulebase: tests, and how to read event files. They do not run."""


def load(files: Mapping[str, bytes]) -> Rulebase:
    """Load a rulebase from its files (relative path with `/` -> content).

    Raises RulebaseError with every problem found, sorted by place. Warnings alone do not raise; they
    are in `Rulebase.warnings`. Pure: reads no file, no clock; the same files give an equal revision.
    Files under `tests/` and `mappings/` are not read. If a file that declares names cannot be parsed,
    what uses the names is not checked, because every use would be reported.
    """
    return _Loader(dict(files)).load()


def revision_of(files: Mapping[str, bytes]) -> str:
    """The SHA-256 (hex) over the sorted paths and contents of a rulebase.

    All files but those under `tests/` and `mappings/` take part, so that adding a test does not change
    what runs.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        if not path.startswith(_ASIDE):
            for part in (path.encode(), files[path]):
                digest.update(len(part).to_bytes(8, "big"))
                digest.update(part)
    return digest.hexdigest()


class _Loader:
    """One load: the files, and what is gathered while reading them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.report = Report()
        self.sources: dict[str, SourceFile] = {}
        self.documents: dict[str, list[Node]] = {}
        self.unread: set[str] = set()

    def load(self) -> Rulebase:
        if not check_files(self.files, self.report):
            self.refuse()
        self.parse()
        name, label, zone = self.header()
        if self.unread & _DECLARING or "vocabulary.yaml" not in self.files:
            self.refuse()
        report = self.report
        raw = read_vocabulary(self.single("vocabulary.yaml"), report)
        tables = self.tables(raw)
        definitions = read_definitions(
            self.single("behaviours.yaml"), self.single("scenes.yaml"), raw.vocabulary, report
        )
        metrics = {n: m.metric for n, m in definitions.metrics.items()}
        conditions = Conditions(report, Scope(declared(raw.vocabulary, metrics, definitions.definitions)))
        vocabulary = with_needs(raw, conditions)
        compiled_metrics = compile_metrics(definitions, conditions)
        compiled = compile_definitions(definitions, conditions, report)

        nodes = self.campaign_nodes()
        cells = read_matrix(
            self.single("matrix.yaml"),
            report,
            behaviours={
                n.removeprefix("behaviour.") for n in definitions.definitions if n.startswith("behaviour.")
            },
            events=vocabulary.events,
            campaigns=nodes,
        )
        policies_node = self.single("policies.yaml")
        known = Known(vocabulary, cap_names(policies_node), cells, zone)
        read = {n: read_campaign(key, node, known, conditions, report) for n, (key, node) in nodes.items()}
        campaigns = {n: campaign for n, campaign in sorted(read.items()) if campaign is not None}
        names = Names(
            campaigns=nodes,
            products=vocabulary.products,
            categories={p.category for p in vocabulary.products.values() if p.category},
            channels=vocabulary.channels,
        )
        policies = read_policies(policies_node, names, conditions, report)
        if report.failed:
            self.refuse()
        self.warn(raw, definitions, compiled, campaigns, conditions)
        return Rulebase(
            name=name,
            label=label,
            revision=revision_of(self.files),
            time_zone=zone,
            vocabulary=vocabulary,
            tables=tables,
            metrics=compiled_metrics,
            definitions=compiled,
            campaigns=MappingProxyType(campaigns),
            policies=policies,
            warnings=report.problems(self.lines()),
            files=MappingProxyType(self.files),
        )

    def lines(self) -> dict[str, list[str]]:
        return {name: source.lines for name, source in self.sources.items()}

    def refuse(self) -> NoReturn:
        raise RulebaseError(self.report.problems(self.lines()))

    def parse(self) -> None:
        """Decode and parse every YAML file, and refuse those that have no place in a rulebase."""
        budget = Budget()
        for path in sorted(self.files):
            if path.startswith(_ASIDE) or not path.endswith((".yaml", ".yml")):
                continue
            if path not in _SINGLE and not (path.startswith(_CAMPAIGNS) and path.endswith(".yaml")):
                hint = self.report.suggest(path, _SINGLE)
                if path.endswith(".yml"):
                    hint = "name it .yaml"
                self.report.error(
                    Position(path), Code.UNKNOWN_FILE, "this file has no place in a rulebase", hint
                )
                continue
            source = decode(path, self.files[path], MAX_YAML_BYTES, self.report)
            nodes = None
            if source is not None:
                self.sources[path] = source
                nodes = documents(source, budget, self.report)
            if nodes is None:
                self.unread.add(path)
            else:
                self.documents[path] = nodes
        for path in _REQUIRED:
            if path not in self.files:
                hint = "a rulebase has its files at the top, not in a folder of the archive"
                self.report.error(Position(path), Code.MISSING_FILE, f"there is no {path}", hint)

    def single(self, path: str) -> Node | None:
        """The one document of a file; None if it is absent, empty or in the report."""
        nodes = self.documents.get(path, [])
        if len(nodes) > 1:
            self.report.error(
                nodes[1].at, Code.BAD_YAML, f"{path} must be one YAML document", "remove the '---'"
            )
        if not nodes or (isinstance(nodes[0], ScalarNode) and nodes[0].is_null):
            return None
        return nodes[0]

    def header(self) -> tuple[str, str, ZoneInfo]:
        """Name, label and time zone from rulebase.yaml."""
        later = {"calendar": "leave it out"}
        node = self.single("rulebase.yaml")
        at = None if node else Position("rulebase.yaml")
        fields = Fields(
            self.report, node, "rulebase.yaml", ("rulebase", "label", "time_zone"), later=later, at=at
        )
        if "rulebase.yaml" in self.files and "rulebase.yaml" not in self.unread:
            fields.require("rulebase", "time_zone")
        name = fields.scalar("rulebase", "a name")
        if name is not None:
            check_name(self.report, name, "rulebase")
        text = name.text if name else ""
        return text, fields.text("label", text), self.zone(fields)

    def zone(self, fields: Fields) -> ZoneInfo:
        node = fields.scalar("time_zone", "a time zone")
        if node is not None:
            try:
                return ZoneInfo(node.text)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                self.report.error(
                    node.at,
                    Code.BAD_VALUE,
                    f"unknown time zone {clip(node.text)!r}",
                    "use an IANA name such as Asia/Shanghai",
                )
        return ZoneInfo("UTC")

    def tables(self, raw: RawVocabulary) -> Tables:
        """The reference tables that the vocabulary names."""
        found = Tables(MappingProxyType({}), MappingProxyType({}))
        csv_files = {path for path in self.files if path.endswith(".csv") and not path.startswith(_ASIDE)}
        for kind, node in raw.tables.items():
            if node.text not in csv_files:
                self.report.unknown(node.at, "table", node.text, csv_files)
                continue
            source = decode(node.text, self.files[node.text], MAX_TABLE_BYTES, self.report)
            if source is None:
                continue
            self.sources[node.text] = source
            if kind == "places":
                found = replace(found, cells=read_cells(source, self.report))
            else:
                terminals = read_terminals(source, raw.vocabulary.terminal, self.report)
                found = replace(found, terminals=terminals)
        for path in csv_files - {node.text for node in raw.tables.values()}:
            self.report.warning(
                Position(path),
                Code.UNUSED,
                "nothing reads this table",
                "name it in vocabulary.yaml or remove it",
            )
        return found

    def campaign_nodes(self) -> dict[str, tuple[ScalarNode, MapNode]]:
        """Every campaign of every file by its name."""
        found: dict[str, tuple[ScalarNode, MapNode]] = {}
        for path, nodes in self.documents.items():
            if not path.startswith(_CAMPAIGNS):
                continue
            for name, node in campaign_nodes(nodes, self.report):
                first, _ = found.setdefault(name.text, (name, node))
                if first is not name:
                    message = f"campaign {name.text!r} is declared twice"
                    self.report.error(name.at, Code.DUPLICATE_NAME, message, f"see {first.at}")
        return found

    def warn(
        self,
        raw: RawVocabulary,
        definitions: RawDefinitions,
        compiled: Mapping[str, Definition],
        campaigns: Mapping[str, Campaign],
        conditions: Conditions,
    ) -> None:
        """What an analyst would want to know of a rulebase without errors."""
        for definition in compiled.values():
            if never_true(definition.when.tree):
                at = definition.when.position
                self.report.warning(at, Code.NEVER_TRUE, f"{definition.name!r} is never true")
        products = {campaign.product for campaign in campaigns.values()}
        for product in raw.vocabulary.products.values():
            products.update(product.requires, product.excludes)
        channels = {channel for campaign in campaigns.values() for channel in campaign.channels}
        metrics = {f"metric.{name}": metric.at for name, metric in definitions.metrics.items()}
        self.unused("definition", {n: d.at for n, d in definitions.definitions.items()}, conditions.read)
        self.unused("metric", metrics, conditions.read)
        self.unused("product", {n: at for (k, n), at in raw.positions.items() if k == "product"}, products)
        self.unused("channel", {n: at for (k, n), at in raw.positions.items() if k == "channel"}, channels)

    def unused(self, kind: str, declared_at: Mapping[str, Position], used: Collection[str]) -> None:
        for name, at in declared_at.items():
            if name not in used:
                self.report.warning(
                    at, Code.UNUSED, f"nothing uses the {kind} {name!r}", "use it or remove it"
                )
