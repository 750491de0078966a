"""Deciding, naively: every policy by looking at every contact, every quarter of an hour, every campaign.

Written from the semantics; `naive_policies` says what it shares with the core. Slow, and meant to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from opportune_rulebase.model import Campaign, Rulebase
from opportune_service.core.stable import number_below
from opportune_service.core.verdict import Candidate, Moment
from support.naive_policies import (
    Heard,
    Said,
    Waits,
    counts_for,
    effective_limit,
    in_control,
    in_period,
    is_quiet,
    local,
    meant,
    quarters,
    zone_named,
)

WEEK_AND_A_DAY_US = 8 * 86_400_000_000
CLOSING = {"accepted", "refused", "ordered", "complained", "not_offered"}


@dataclass(frozen=True)
class Answer:
    """What a decision must be."""

    reason: str
    fate: str | None = "drop"
    channel: str = ""
    due_us: int = 0
    expires_us: int = 0
    shown: bool = False
    lost_to: str = ""
    group: str = ""


@dataclass
class _Stop:
    """A policy that said no on a channel. `clear_us` 0: it never lets the contact pass."""

    reason: str
    fate: str
    clear_us: int
    spread: bool = True


@dataclass
class Oracle:
    rulebase: Rulebase
    contacts: list[Said] = field(default_factory=list)
    outcomes: list[Heard] = field(default_factory=list)
    prompts: dict[tuple[str, str], Waits] = field(default_factory=dict)
    deferrals: dict[tuple[str, str], Waits] = field(default_factory=dict)

    def decide(
        self, moment: Moment, paused: Collection[str], id_of: Callable[[str], str]
    ) -> dict[str, Answer]:
        """What each candidate must come to. `id_of`: the id that the decision on a campaign will have."""
        subscriber = moment.key.subscriber_id
        answers: dict[str, Answer] = {}
        rest: list[Candidate] = []
        for candidate in moment.candidates:
            reason = self._screened(moment, candidate, paused)
            if reason:
                answers[candidate.campaign] = Answer(reason)
            else:
                rest.append(candidate)
        redecided = [candidate for candidate in moment.candidates if candidate.deferred_of]
        contending = []
        for candidate in rest:
            settles_us = self._settles_us(moment, candidate, bool(redecided))
            if settles_us:
                lapses_us = self._lapses_us(moment, candidate)
                answers[candidate.campaign] = Answer("settling", "defer", "", settles_us, lapses_us)
                self.deferrals[subscriber, candidate.campaign] = Waits(
                    id_of(candidate.campaign), settles_us, lapses_us, settling=True
                )
            else:
                contending.append(candidate)
        for candidate in redecided:
            waiting = self.deferrals.get((subscriber, candidate.campaign))
            if waiting and waiting.id == candidate.deferred_of:
                del self.deferrals[subscriber, candidate.campaign]
        self._arbitrate(moment, contending, answers, id_of)
        return answers

    # What is said of the candidate alone.

    def _screened(self, moment: Moment, candidate: Candidate, paused: Collection[str]) -> str:
        campaign, profile, now_us = (
            self.rulebase.campaigns[candidate.campaign],
            moment.profile,
            moment.now_us,
        )
        policies, product = self.rulebase.policies, self.rulebase.vocabulary.products[campaign.product]
        if candidate.deferred_of:
            if now_us >= self._lapses_us(moment, candidate):
                return "stale"
        elif not candidate.prompt_of and now_us - moment.occurred_at_us > campaign.fresh_for_us:
            return "stale"
        begun = campaign.valid_from_us is None or campaign.valid_from_us <= now_us
        over = campaign.valid_to_us is not None and campaign.valid_to_us <= now_us
        here = not campaign.branches or profile.branch in campaign.branches
        if candidate.campaign in paused or not begun or over or not here:
            return "not_live"
        if campaign.mode == "automatic" and not profile.known and not campaign.allow_unknown:
            return "no_context"
        if (
            candidate.target is not True
            or (profile.status is not None and profile.status not in policies.normal_status)
            or product.name in profile.products
            or not set(product.requires) <= set(profile.products)
            or set(product.excludes) & set(profile.products)
            or not any(ok is True for ok in candidate.terminal_ok.values())
        ):
            return "not_eligible"
        general = {s.name for s in policies.suppressions if not s.applies_to.channels}
        if (
            profile.do_not_contact
            or not self._consents(moment, f"category/{campaign.category}")
            or general & set(candidate.suppressed_by)
        ):
            return "suppressed"
        for rest in policies.cool_downs:
            for heard in self.outcomes:
                mine = heard.subscriber == moment.key.subscriber_id and heard.kind in rest.outcomes
                same = {
                    "any": True,
                    "campaign": heard.campaign == campaign.name,
                    "product": heard.product == campaign.product,
                    "category": heard.category == campaign.category,
                }[rest.scope.value]
                if mine and same and now_us < heard.at_us + rest.for_us:
                    return "cooling_off"
        if self._has_copy(moment, candidate) or self._tells_another_story(moment, campaign):
            return "inconsistent"
        return ""

    def _consents(self, moment: Moment, purpose: str) -> bool:
        return moment.profile.consents.get(purpose, purpose not in self.rulebase.policies.opt_in)

    def _has_copy(self, moment: Moment, candidate: Candidate) -> bool:
        key = (moment.key.subscriber_id, candidate.campaign)
        deferral, prompt = self.deferrals.get(key), self.prompts.get(key)
        if prompt and prompt.expires_us <= moment.now_us:
            prompt = None
        if candidate.deferred_of and not (deferral and deferral.id == candidate.deferred_of):
            return True
        if candidate.prompt_of:
            return not (prompt and prompt.id == candidate.prompt_of)
        return prompt is not None

    def _tells_another_story(self, moment: Moment, campaign: Campaign) -> bool:
        products = self.rulebase.vocabulary.products
        for said in self._contacts_of(moment.key.subscriber_id):
            answered = any(heard.id == said.id and heard.kind in CLOSING for heard in self.outcomes)
            if said.open_until_us <= moment.now_us or answered or said.campaign == campaign.name:
                continue
            there = products[said.product].excludes if said.product in products else ()
            if (
                said.product == campaign.product
                or campaign.product in there
                or said.product in products[campaign.product].excludes
            ):
                return True
        return False

    def _contacts_of(self, subscriber: str) -> list[Said]:
        return [said for said in self.contacts if said.subscriber == subscriber and not said.released]

    def _lapses_us(self, moment: Moment, candidate: Candidate) -> int:
        first_us = moment.now_us + self.rulebase.campaigns[candidate.campaign].expires_after_us
        return candidate.expires_us or first_us

    def _settles_us(self, moment: Moment, candidate: Candidate, redecides: bool) -> int:
        settle_us, campaign = self.rulebase.policies.settle_us, self.rulebase.campaigns[candidate.campaign]
        if settle_us == 0 or redecides or candidate.prompt_of or campaign.mode != "automatic":
            return 0
        due_us = moment.now_us + settle_us
        for (subscriber, _), waiting in self.deferrals.items():
            if subscriber == moment.key.subscriber_id and waiting.settling:
                due_us = min(due_us, waiting.due_us)
        return due_us if due_us < self._lapses_us(moment, candidate) else 0

    # What they are to each other.

    def _arbitrate(
        self,
        moment: Moment,
        contending: list[Candidate],
        answers: dict[str, Answer],
        id_of: Callable[[str], str],
    ) -> None:
        policies, campaigns = self.rulebase.policies, self.rulebase.campaigns

        def standing(candidate: Candidate) -> tuple[float, float, str]:
            campaign = campaigns[candidate.campaign]
            likely = policies.default_propensity if candidate.propensity is None else candidate.propensity
            return -campaign.priority, -(campaign.value * likely), campaign.name

        winners: dict[str, list[str]] = {"automatic": [], "manual": []}
        most = {"automatic": policies.max_automatic, "manual": policies.max_prompts}
        speaks_for: dict[str, str] = {}
        for candidate in sorted(contending, key=standing):
            campaign = campaigns[candidate.campaign]
            name, mode, group = campaign.name, campaign.mode.value, campaign.group
            if group in speaks_for:
                answers[name] = Answer("outranked", lost_to=speaks_for[group], group=group)
            else:
                if group:
                    speaks_for[group] = name
                if len(winners[mode]) == most[mode]:
                    lost_to = winners[mode][-1] if winners[mode] else ""
                    answers[name] = Answer("outranked", lost_to=lost_to)
                    continue
                if self._tells_another_story(moment, campaign):
                    answers[name] = Answer("inconsistent")
                    speaks_for.pop(group, None)
                    continue
                answers[name] = self._won(moment, candidate, campaign, id_of(name))
                if answers[name].fate == "next":
                    speaks_for.pop(group, None)
                else:
                    winners[mode].append(name)

    def _won(self, moment: Moment, candidate: Candidate, campaign: Campaign, id_: str) -> Answer:
        subscriber, now_us = moment.key.subscriber_id, moment.now_us
        lapses_us = self._lapses_us(moment, candidate)
        stops: list[_Stop] = []
        for channel in self._ordered(moment, candidate, campaign):
            if not self._suits(moment, candidate, campaign, channel):
                continue
            stop = self._stop(moment, campaign, channel, lapses_us)
            if stop is None:
                return self._reserved(moment, candidate, campaign, channel, id_)
            stops.append(stop)
        if not stops:
            return Answer("no_channel", self.rulebase.policies.no_channel.value)
        last = stops[-1]
        if last.fate != "defer":
            return Answer(last.reason, last.fate)
        if last.clear_us == 0 or candidate.prompt_of:
            return Answer(last.reason, "drop")
        jitter_us = self.rulebase.policies.jitter_us
        dues = []
        for stop in stops:
            if stop.fate == "defer" and stop.clear_us:
                late_us = 0
                if stop.spread and jitter_us:
                    late_us = number_below(jitter_us, b"opp-jitter", subscriber, str(stop.clear_us))
                into_minute_us = stop.clear_us % 60_000_000
                rest_us = 60_000_000 - into_minute_us if into_minute_us else 0
                dues.append(stop.clear_us + rest_us + late_us)
        if min(dues) >= lapses_us:
            return Answer(last.reason, "drop")
        self.deferrals[subscriber, campaign.name] = Waits(id_, min(dues), lapses_us)
        assert min(dues) > now_us
        return Answer(last.reason, "defer", "", min(dues), lapses_us)

    def _reserved(
        self, moment: Moment, candidate: Candidate, campaign: Campaign, channel: str, id_: str
    ) -> Answer:
        subscriber, now_us = moment.key.subscriber_id, moment.now_us
        lapses_us = self._lapses_us(moment, candidate)
        manual = campaign.mode == "manual"
        shown = manual and channel == moment.touch_point
        self.deferrals.pop((subscriber, campaign.name), None)
        if manual and not shown:
            self.prompts[subscriber, campaign.name] = Waits(id_, expires_us=lapses_us)
            return Answer("decided", None, channel, expires_us=lapses_us)
        if candidate.prompt_of:
            self.prompts.pop((subscriber, campaign.name), None)
        said = Said(
            id=id_,
            subscriber=subscriber,
            campaign=campaign.name,
            product=campaign.product,
            category=campaign.category,
            channel=channel,
            mode=campaign.mode.value,
            at_us=now_us,
            open_until_us=now_us + campaign.open_for_us,
            cost=self.rulebase.vocabulary.channels[channel].cost,
        )
        if in_control(self.rulebase, campaign, subscriber):
            self.contacts.append(replace(said, control=True))
            return Answer("control", "drop", channel, shown=shown)
        self.contacts.append(said)
        if not manual:
            if campaign.valid_to_us is not None:
                lapses_us = min(lapses_us, campaign.valid_to_us)
            zone = zone_named(self.rulebase, moment.profile.zone)
            for later_us in quarters(now_us, lapses_us):
                if is_quiet(self.rulebase, campaign, channel, later_us, zone):
                    lapses_us = later_us
                    break
        return Answer("decided", None, channel, expires_us=lapses_us, shown=shown)

    # What is said of a channel.

    def _ordered(self, moment: Moment, candidate: Candidate, campaign: Campaign) -> list[str]:
        if candidate.prompt_of:
            return [channel for channel in campaign.channels if channel == moment.touch_point]
        if campaign.mode == "manual" and moment.touch_point in campaign.channels:
            return [moment.touch_point]
        policies = self.rulebase.policies
        since_us = moment.now_us - policies.preference.within_us
        past = [
            said
            for said in self._contacts_of(moment.key.subscriber_id)
            if not said.control and said.at_us > since_us
        ]

        def better(channel: str) -> tuple[float, ...]:
            fits = policies.fit.get(campaign.product, {}).get(channel)
            segment = list(moment.segment)
            place = segment.index(channel) if channel in segment else len(segment)
            if len(past) >= policies.preference.from_contacts:
                share = sum(said.channel == channel for said in past) / max(1, len(past))
                angry = any(
                    heard.kind == "complained" and heard.id == said.id and said.channel == channel
                    for heard in self.outcomes
                    for said in past
                )
                liking = (float(angry), -share)
            else:
                score = moment.channel_scores.get(channel)
                liking = (1.0, 0.0) if score is None else (0.0, -score)
            return (0.0 if fits == "AA" else 1.0, *liking, place, campaign.channels.index(channel))

        return sorted(campaign.channels, key=better)

    def _suits(self, moment: Moment, candidate: Candidate, campaign: Campaign, channel: str) -> bool:
        policies = self.rulebase.policies
        return (
            policies.fit.get(campaign.product, {}).get(channel) != "CC"
            and candidate.terminal_ok[channel] is True
            and candidate.content[channel] is not None
            and not any(
                s.name in candidate.suppressed_by and channel in s.applies_to.channels
                for s in policies.suppressions
            )
            and self._consents(moment, f"channel/{channel}")
        )

    def _stop(self, moment: Moment, campaign: Campaign, channel: str, lapses_us: int) -> _Stop | None:
        now_us, zone = moment.now_us, zone_named(self.rulebase, moment.profile.zone)
        window = is_quiet(self.rulebase, campaign, channel, now_us, zone)
        if window:
            ends_us = 0
            for later_us in quarters(now_us, max(lapses_us, now_us + WEEK_AND_A_DAY_US)):
                if not is_quiet(self.rulebase, campaign, channel, later_us, zone):
                    ends_us = later_us
                    break
            return _Stop("quiet_hours", window.otherwise.value, ends_us)
        return self._capped(moment, campaign, channel) or self._spent(moment, campaign, channel)

    def _capped(self, moment: Moment, campaign: Campaign, channel: str) -> _Stop | None:
        now_us, zone = moment.now_us, zone_named(self.rulebase, moment.profile.zone)
        this = Said(
            *("this", moment.key.subscriber_id, campaign.name, campaign.product, campaign.category),
            *(channel, campaign.mode.value, now_us),
        )
        for cap in self.rulebase.policies.caps:
            if cap.name in campaign.exempt or not meant(cap.applies_to, this):
                continue
            limit = effective_limit(cap, campaign)
            past = [
                said for said in self._contacts_of(moment.key.subscriber_id) if counts_for(cap, said, this)
            ]
            if sum(in_period(cap, said.at_us, now_us, zone) for said in past) + 1 <= limit:
                continue
            clear_us = 0
            if limit > 0 and cap.rolling_us is not None:
                clear_us = min(
                    free_us
                    for free_us in (said.at_us + cap.rolling_us for said in past)
                    if free_us > now_us
                    and sum(in_period(cap, said.at_us, free_us, zone) for said in past) + 1 <= limit
                )
            elif limit > 0:
                clear_us = next(
                    later_us
                    for later_us in quarters(now_us, now_us + 33 * 86_400_000_000)
                    if not in_period(cap, now_us, later_us, zone)
                )
            return _Stop("capped", cap.otherwise.value, clear_us, spread=cap.rolling_us is None)
        return None

    def _spent(self, moment: Moment, campaign: Campaign, channel: str) -> _Stop | None:
        zone, carrier = self.rulebase.time_zone, self.rulebase.vocabulary.channels[channel]
        today = local(moment.now_us, zone).date()
        tomorrow_us = next(
            later_us
            for later_us in quarters(moment.now_us, moment.now_us + 2 * 86_400_000_000)
            if local(later_us, zone).date() != today
        )
        real = [s for s in self.contacts if not s.control and not s.foreign and not s.released]
        ours = [said for said in real if said.campaign == campaign.name]
        quota = campaign.quota
        if quota:
            fate = quota.otherwise.value
            if quota.per_day is not None and 1 + sum(
                local(said.at_us, zone).date() == today for said in ours
            ) > (quota.per_day):
                return _Stop("quota", fate, tomorrow_us if quota.per_day else 0)
            if quota.total is not None and 1 + len(ours) > quota.total:
                return _Stop("quota", "drop" if fate == "defer" else fate, 0)
            if quota.budget is not None and carrier.cost + sum(s.cost for s in ours) > quota.budget:
                return _Stop("quota", "drop" if fate == "defer" else fate, 0)
        if carrier.per_day is not None:
            there = [s for s in real if s.channel == channel and local(s.at_us, zone).date() == today]
            if len(there) + 1 > carrier.per_day:
                return _Stop("capacity", carrier.otherwise.value, tomorrow_us if carrier.per_day else 0)
        return None
