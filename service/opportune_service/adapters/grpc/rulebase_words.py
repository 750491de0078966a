"""What is known of rulebases, in the contract's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_rulebase import Problem, Rulebase, Severity
from opportune_rulebase.diff import Change
from opportune_rulebase.model import Campaign

from opportune_service.adapters.grpc.words import mode_number, timestamp
from opportune_service.app.activation import Attempt
from opportune_service.app.lifecycle import RulebaseState
from opportune_service.app.promotions import SHARE_OF
from opportune_service.app.records import ActivationMode, InForce, Pause, PauseChange
from opportune_service.app.rulebases import Stored
from opportune_service.app.run_tests import SuiteReport
from opportune_service.app.watching import Seen, Told

_SEVERITIES = {
    Severity.ERROR: pb.PROBLEM_SEVERITY_ERROR,
    Severity.WARNING: pb.PROBLEM_SEVERITY_WARNING,
}
_STATE_NUMBERS = {state: pb.RulebaseState.Value(f"RULEBASE_STATE_{state.name}") for state in RulebaseState}
STATES: Mapping[int, RulebaseState | None] = {
    pb.RULEBASE_STATE_UNSPECIFIED: None,
    **{number: state for state, number in _STATE_NUMBERS.items()},
}
"""None: any."""
_MODE_NUMBERS = {
    mode: types.ActivationMode.Value(f"ACTIVATION_MODE_{mode.name}") for mode in ActivationMode
}
MODES: Mapping[int, ActivationMode] = {
    types.ACTIVATION_MODE_UNSPECIFIED: ActivationMode.FULL,
    **{number: mode for mode, number in _MODE_NUMBERS.items()},
}
_MOST_DIFFERENCE = 2_000
"""Of what is said of one failed case: the message with all of them has to reach the caller."""


def problem(found: Problem) -> pb.Problem:
    return pb.Problem(
        file=found.position.file,
        line=found.position.line,
        column=found.position.column,
        severity=_SEVERITIES[found.severity],
        code=found.code,
        message=found.message,
        hint=found.hint,
        snippet=found.snippet,
    )


def problems(found: Iterable[Problem]) -> list[pb.Problem]:
    return [problem(each) for each in found]


def bare(stored: Stored) -> pb.Rulebase:
    """A revision, without what only the rulebase itself says."""
    approval = stored.progress.approval
    return pb.Rulebase(
        revision=stored.row.revision,
        name=stored.row.name,
        state=_STATE_NUMBERS[stored.state],
        author=stored.row.uploaded_by,
        uploaded_at=timestamp(stored.row.uploaded_at_us),
        comment=stored.row.comment,
        approver=approval.by if approval else "",
        approved_at=timestamp(approval.at_us) if approval else None,
    )


def described(stored: Stored, rulebase: Rulebase, paused: Mapping[str, Pause]) -> pb.Rulebase:
    """A revision with its campaigns. `paused`: campaigns that are, by name."""
    whole = bare(stored)
    whole.label = rulebase.label
    whole.metric_count = len(rulebase.metrics)
    whole.definition_count = len(rulebase.definitions)
    whole.warnings.extend(problems(rulebase.warnings))
    for each in sorted(rulebase.campaigns.values(), key=lambda each: each.name):
        whole.campaigns.append(campaign_status(each.name, each, paused.get(each.name)))
    return whole


def campaign_status(name: str, campaign: Campaign | None, pause: Pause | None) -> pb.CampaignStatus:
    """`campaign` is None if no revision in force has it any more."""
    status = pb.CampaignStatus(campaign=name, paused=pause is not None)
    if campaign is not None:
        status.label, status.product = campaign.label, campaign.product
        status.mode = mode_number(campaign.mode)
    if pause is not None:
        status.paused_by, status.pause_reason = pause.by, pause.reason
        status.paused_at.CopyFrom(timestamp(pause.at_us))
    return status


def activation(each: InForce) -> pb.Activation:
    return pb.Activation(
        revision=each.revision,
        mode=_MODE_NUMBERS[each.mode],
        canary_share=each.share / SHARE_OF,
        activated_at=timestamp(each.at_us),
        actor=each.by,
        comment=each.comment,
    )


def attempt(made: Attempt) -> pb.ActivationAttempt:
    return pb.ActivationAttempt(
        revision=made.revision,
        attempted_at=timestamp(made.at_us),
        succeeded=not made.message,
        message=made.message,
        problems=problems(made.problems),
    )


def history(stored: Stored, pauses: Sequence[PauseChange]) -> list[pb.HistoryEntry]:
    """What was done with a revision, newest first; what happened at one instant, as it was recorded."""
    entries = [
        (
            step.at_us,
            pb.HistoryEntry(
                occurred_at=timestamp(step.at_us),
                actor=step.by,
                action=step.kind.value,
                comment=step.comment,
                mode=_MODE_NUMBERS[step.mode] if step.mode else types.ACTIVATION_MODE_UNSPECIFIED,
                canary_share=step.share / SHARE_OF,
            ),
        )
        for step in stored.steps
    ]
    for change in pauses:
        said = f"{change.campaign}: {change.reason}" if change.reason else change.campaign
        action = "paused" if change.paused else "resumed"
        entry = pb.HistoryEntry(
            occurred_at=timestamp(change.at_us), actor=change.by, action=action, comment=said
        )
        entries.append((change.at_us, entry))
    entries.sort(key=lambda each: each[0])
    return [entry for _, entry in reversed(entries)]


def change(made: Change) -> pb.RulebaseChange:
    return pb.RulebaseChange(
        kind=pb.ChangeKind.Value(f"CHANGE_KIND_{made.kind.name}"),
        element=made.element,
        name=made.name,
        label=made.label,
        summary=made.summary,
        keys=[pb.KeyChange(key=each.key, before=each.before, after=each.after) for each in made.keys],
        affected_campaigns=made.affected_campaigns,
    )


def tests(report: SuiteReport) -> pb.TestRulebaseResponse:
    return pb.TestRulebaseResponse(
        passed=report.passed,
        results=[
            pb.TestCaseResult(
                file=each.case.position.file,
                line=each.case.position.line,
                name=each.case.name,
                passed=not each.failures,
                difference="\n".join(each.failures)[:_MOST_DIFFERENCE],
            )
            for each in report.results
        ],
        coverage=[
            pb.TestCoverage(name=name, held_count=held, not_held_count=not_held)
            for name, (held, not_held) in report.counts.items()
        ],
        problems=problems(report.problems),
    )


def told(each: Told, campaigns: Mapping[str, Campaign]) -> pb.WatchRulebaseResponse:
    """`campaigns`: those of the revisions in force, by name."""
    return pb.WatchRulebaseResponse(
        kind=_KINDS[each.kind],
        activations=[activation(one) for one in each.now.in_force],
        paused_campaigns=[
            campaign_status(name, campaigns.get(name), pause)
            for name, pause in sorted(each.now.paused.items())
        ],
        attempt=attempt(each.attempt) if each.attempt else None,
        campaign=each.campaign,
    )


_KINDS = {seen: pb.RulebaseEventKind.Value(f"RULEBASE_EVENT_KIND_{seen.name}") for seen in Seen}
