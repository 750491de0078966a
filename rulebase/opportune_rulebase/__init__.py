"""The trigger rule base of Opportune: its language, its loader and its engines.

`load` turns files into an immutable `Rulebase`, or raises `RulebaseError` with every problem.
`to_archive` and `from_archive` carry the files of a rulebase as one zip archive. Matching is in
`opportune_rulebase.engine` (the port) and the engines beside it.
"""

from opportune_rulebase.errors import ExpressionError, Position, Problem, RulebaseError, Severity
from opportune_rulebase.loading.archive import from_archive, to_archive
from opportune_rulebase.loading.load import load, revision_of
from opportune_rulebase.loading.problems import Code
from opportune_rulebase.model import (
    Attribute,
    Campaign,
    Channel,
    Definition,
    DefinitionKind,
    EventType,
    Metric,
    MetricKind,
    Place,
    Product,
    Rulebase,
    Tables,
    Template,
    ValueType,
    Vocabulary,
)
from opportune_rulebase.policies import (
    CalendarPeriod,
    Cap,
    CoolDown,
    CoolDownScope,
    Dimension,
    Mode,
    OutcomeKind,
    Policies,
    QuietHours,
    Selector,
    Suppression,
)

__all__ = [
    "Attribute",
    "CalendarPeriod",
    "Campaign",
    "Cap",
    "Channel",
    "Code",
    "CoolDown",
    "CoolDownScope",
    "Definition",
    "DefinitionKind",
    "Dimension",
    "EventType",
    "ExpressionError",
    "Metric",
    "MetricKind",
    "Mode",
    "OutcomeKind",
    "Place",
    "Policies",
    "Position",
    "Problem",
    "Product",
    "QuietHours",
    "Rulebase",
    "RulebaseError",
    "Selector",
    "Severity",
    "Suppression",
    "Tables",
    "Template",
    "ValueType",
    "Vocabulary",
    "from_archive",
    "load",
    "revision_of",
    "to_archive",
]
