"""Text in, immutable `Rulebase` out: `load`, and the order in which the parts of a rulebase are read."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from opportune_rulebase.errors import Position, RulebaseError
from opportune_rulebase.expressions import Scope
from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.archive import check_files
from opportune_rulebase.loading.calendars import read_calendar
from opportune_rulebase.loading.campaigns import Known, read_campaign
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.definitions import (
    RawDefinitions,
    compile_definitions,
    read_definitions,
)
from opportune_rulebase.loading.fields import Fields, check_name
from opportune_rulebase.loading.inherit import inherit, named_documents
from opportune_rulebase.loading.matrix import (
    MATRIX_CSV,
    MATRIX_FILES,
    MATRIX_XLSX,
    MAX_MATRIX_BYTES,
    matrix_of_csv,
    matrix_of_xlsx,
    read_matrix,
)
from opportune_rulebase.loading.policies import Names, cap_names, read_policies
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.source import (
    Budget,
    Node,
    ScalarNode,
    SourceFile,
    decode,
    documents,
    yaml_source,
)
from opportune_rulebase.loading.tables import MAX_TABLE_BYTES, read_cells, read_terminals
from opportune_rulebase.loading.triggers import with_triggers
from opportune_rulebase.loading.vocabulary import RawVocabulary, read_vocabulary, with_needs
from opportune_rulebase.model import Calendar, Campaign, Rulebase, Tables, Trigger
from opportune_rulebase.policies import Policies
from opportune_rulebase.variables import declared
from opportune_rulebase.warnings import warnings_of

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
        name, label, zone, calendar = self.header()
        if self.unread & _DECLARING or "vocabulary.yaml" not in self.files:
            self.refuse()
        report = self.report
        raw = read_vocabulary(self.single("vocabulary.yaml"), report)
        tables = self.tables(raw)
        definitions = read_definitions(
            self.single("behaviours.yaml"), self.single("scenes.yaml"), raw.vocabulary, tables, report
        )
        raw.vocabulary = definitions.vocabulary
        metrics = {n: m.metric for n, m in definitions.metrics.items()}
        names_in_scope = declared(raw.vocabulary, metrics, definitions.definitions, definitions.facts)
        conditions = Conditions(report, Scope(names_in_scope))
        vocabulary = with_needs(raw, conditions)
        compiled = compile_definitions(definitions, conditions, report)

        nodes, templates = named_documents(self.campaign_documents(), report)
        cells = read_matrix(
            self.matrix(),
            report,
            behaviours={
                n.removeprefix("behaviour.") for n in definitions.definitions if n.startswith("behaviour.")
            },
            events=vocabulary.events,
            campaigns=nodes,
        )
        policies_node = self.single("policies.yaml")
        triggers: dict[str, Trigger] = {}
        known = Known(vocabulary, cap_names(policies_node), nodes, cells, zone, triggers)
        whole = inherit(
            nodes,
            templates,
            keys=keys_in("campaign"),
            channels=vocabulary.channels,
            report=report,
        )
        read = {n: read_campaign(key, node, known, conditions, report) for n, (key, node) in whole.items()}
        campaigns = {n: campaign for n, campaign in sorted(read.items()) if campaign is not None}
        names = Names(nodes, vocabulary, compiled.definitions)
        policies = read_policies(policies_node, names, conditions, report)
        if report.failed:
            self.refuse()
        self.warn(raw, definitions, campaigns, policies, conditions)
        rulebase = Rulebase(
            name=name,
            label=label,
            revision=revision_of(self.files),
            time_zone=zone,
            vocabulary=with_triggers(vocabulary, triggers),
            tables=tables,
            metrics=compiled.metrics,
            definitions=compiled.definitions,
            campaigns=MappingProxyType(campaigns),
            policies=policies,
            facts=compiled.facts,
            imported=definitions.imported,
            patterns=compiled.patterns,
            triggers=MappingProxyType(dict(sorted(triggers.items()))),
            calendar=calendar,
            files=MappingProxyType(self.files),
        )
        for problem in warnings_of(rulebase):
            report.add(problem)
        return replace(rulebase, warnings=report.problems(self.lines()))

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
            source = yaml_source(path, self.files[path], budget, self.report)
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

    def header(self) -> tuple[str, str, ZoneInfo, Calendar]:
        """Name, label, time zone and calendar from rulebase.yaml."""
        node = self.single("rulebase.yaml")
        at = None if node else Position("rulebase.yaml")
        fields = Fields(self.report, node, "rulebase.yaml", keys_in("rulebase"), at=at)
        if "rulebase.yaml" in self.files and "rulebase.yaml" not in self.unread:
            fields.require("rulebase", "time_zone")
        name = fields.scalar("rulebase", "a name")
        if name is not None:
            check_name(self.report, name, "rulebase")
        text = name.text if name else ""
        return text, fields.text("label", text), self.zone(fields), read_calendar(fields, self.report)

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
        csv_files.discard(MATRIX_CSV)
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

    def campaign_documents(self) -> Iterator[Node]:
        """Every document under campaigns/, file by file."""
        for path, nodes in self.documents.items():
            if path.startswith(_CAMPAIGNS):
                yield from nodes

    def matrix(self) -> Node | None:
        """The application matrix, whichever way it is written; None if it is absent or in the report."""
        present = [path for path in MATRIX_FILES if path in self.files]
        for path in present[1:]:
            message = f"the matrix is written in {present[0]} too"
            self.report.error(Position(path), Code.CONFLICTING_KEYS, message, "keep one of them")
        if not present:
            return None
        path = present[0]
        if path == MATRIX_XLSX:
            return matrix_of_xlsx(path, self.files[path], self.report)
        if path == MATRIX_CSV:
            source = decode(path, self.files[path], MAX_MATRIX_BYTES, self.report)
            if source is None:
                return None
            self.sources[path] = source
            return matrix_of_csv(source, self.report)
        return self.single(path)

    def warn(
        self,
        raw: RawVocabulary,
        definitions: RawDefinitions,
        campaigns: Mapping[str, Campaign],
        policies: Policies,
        conditions: Conditions,
    ) -> None:
        """What an analyst would want to know of a rulebase without errors."""
        products = {campaign.product for campaign in campaigns.values()}
        for product in raw.vocabulary.products.values():
            products.update(product.requires, product.excludes)
        channels = {channel for campaign in campaigns.values() for channel in campaign.channels}
        metrics = {f"metric.{name}": metric.at for name, metric in definitions.metrics.items()}
        self.unused("definition", {n: d.at for n, d in definitions.definitions.items()}, conditions.read)
        self.unused("metric", metrics, conditions.read)
        facts = {f"fact.{name}": fact.at for name, fact in definitions.facts.items()}
        self.unused("fact", facts, conditions.read)
        types = definitions.event_types_in_use.union(*(campaign.on for campaign in campaigns.values()))
        types = types | {each.conversion.event for each in campaigns.values() if each.conversion}
        self.unused("pattern", {n: p.at for n, p in definitions.patterns.items()}, types)
        self.unused("product", {n: at for (k, n), at in raw.positions.items() if k == "product"}, products)
        self.unused("channel", {n: at for (k, n), at in raw.positions.items() if k == "channel"}, channels)

    def unused(self, kind: str, declared_at: Mapping[str, Position], used: Collection[str]) -> None:
        for name, at in declared_at.items():
            if name not in used:
                self.report.warning(
                    at, Code.UNUSED, f"nothing uses the {kind} {name!r}", "use it or remove it"
                )
