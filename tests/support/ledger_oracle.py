"""What must never be in a ledger, counted naively over the journal of its rows, one change after the other.

It knows the rulebase as it was drawn (`policy_spec`), and shares no code with the service.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from support.ledger_journal import Database, Entry, journal_of, table_of
from support.policy_spec import OPERATOR_ZONE, WEEKDAYS, Spec

Row = dict[str, Any]
Key = tuple[str, str]

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_CLOSING = {"accepted", "refused", "ordered", "complained", "not_offered"}
_ENDED = {"sent", "delivered", "failed", "expired", "dead", "withdrawn"}
MINUTE_US = 60_000_000


class Oracle:
    """Goes through a journal; `found` is what is wrong, each as "KIND: what". `seen`: how often there was
    something to check, by kind."""

    def __init__(self, database: Database, specs: Mapping[str, Spec], zones: Mapping[str, str]) -> None:
        self.found: list[str] = []
        self.seen: Counter[str] = Counter()
        self._database = database
        self._specs = specs
        self._zones = {who: ZoneInfo(zone or OPERATOR_ZONE) for who, zone in zones.items()}
        self._decisions = {row["decision_id"]: row for row in table_of(database, "decisions")}
        self._verdicts = [msgspec.msgpack.decode(row["body"]) for row in table_of(database, "verdicts")]
        self._places = {
            each["id"]: ((verdict["key"]["source"], verdict["key"]["event_id"]), each["rank"])
            for verdict in self._verdicts
            for each in verdict["decisions"]
        }
        self._contacts: dict[Key, Row] = {}
        self._answered: defaultdict[str, list[Row]] = defaultdict(list)
        self._deliveries: dict[str, Row] = {}
        self._first_leases: Counter[tuple[str, int]] = Counter()
        self._leased_us: defaultdict[str, list[int]] = defaultdict(list)
        self._opted_out: set[tuple[str, str]] = set()
        self._paused: set[str] = set()
        self._spec: Spec = {}

    def check(self) -> list[str]:
        """Everything that is wrong."""
        for entry in journal_of(self._database):
            self._take(entry)
        self._check_end()
        self._check_decisions()
        self._check_control()
        return self.found

    def _wrong(self, kind: str, row: Row, what: str) -> None:
        self.found.append(f"{kind}: {row.get('campaign')} {row.get('decision_id', '')[:8]} {what}")

    def _take(self, entry: Entry) -> None:
        now, was = entry.now, entry.was
        match entry.what:
            case "contacts" if now is not None:
                self._take_contact(entry.at_us, was, now)
                self._contacts[now["subscriber_id"], now["decision_id"]] = now
            case "deliveries" if now is not None:
                leased = now["state"] == "leased" and (was is None or was["token"] != now["token"])
                if leased:
                    self._check_lease(entry.at_us, was or {}, now)
                self._deliveries[now["decision_id"]] = now
            case "outcomes" if now is not None:
                self._answered[now["subscriber_id"]].append(now)
            case "pauses":
                self._paused -= {(was or {}).get("campaign")}
                self._paused |= {now["campaign"]} if now else set()
            case "revision" if now is not None:
                self._spec = self._specs[now["revision"]]
            case "opt_out" if now is not None:
                self._opted_out.add((now["subscriber"], now["scope"]))
            case "opt_in" if now is not None:
                self._opted_out.discard((now["subscriber"], now["scope"]))
            case _:
                self.found.append(f"journal: {entry.what} was removed")

    # -- a contact is made ------------------------------------------------------------------------

    def _take_contact(self, at_us: int, was: Row | None, now: Row) -> None:
        if was is not None and (was["state"] != "released" or now["state"] != "reserved"):
            return  # it was counted before, or evidence came that it was made after all
        decision = self._decisions.get(now["decision_id"])
        if decision is None or (decision["mode"] == "manual" and not decision["shown"]):
            return  # by another system, or by a person who told of it afterwards: a fact
        self.seen["contacts"] += 1
        fresh = was is None
        self.seen["redriven"] += not fresh
        spec = self._specs[decision["revision"]] if fresh else self._spec
        self._check_caps(spec, now)
        self._check_story(spec, now)
        self._check_rest(spec, now)
        if not now["control"]:
            self._check_quota(spec, now)
        if fresh:
            if now["at_us"] != decision["decided_at_us"]:
                self._wrong("time", now, "is not that of its decision")
            if _quiet(spec, now, now["at_us"], self._zone(now)):
                self._wrong("quiet", now, "was decided in quiet hours")
            if not now["control"]:
                self._check_consent(now, "was decided")

    def _zone(self, row: Row) -> ZoneInfo:
        return self._zones[row["subscriber_id"]]

    def _others(self, mine: Row) -> Iterator[Row]:
        """Contacts of the same subscriber that were made before. Of one event, the better rank is first."""
        event, rank = self._places[mine["decision_id"]]
        for (who, id_), row in self._contacts.items():
            same = who == mine["subscriber_id"] and id_ != mine["decision_id"]
            if same and row["state"] != "released":
                other_event, other_rank = self._places.get(id_, (None, 0))
                if other_event != event or other_rank < rank:
                    yield row

    def _check_caps(self, spec: Spec, mine: Row) -> None:
        campaign, at_us, zone = spec["campaigns"][mine["campaign"]], mine["at_us"], self._zone(mine)
        for name, cap in spec["policies"]["caps"].items():
            applies_to = cap["applies_to"]
            if name in campaign.get("exempt", []) or not _meant(applies_to, mine):
                continue
            without_modes = {key: said for key, said in applies_to.items() if key != "modes"}
            counts = cap.get("counts", without_modes)
            counted = [
                other
                for other in self._others(mine)
                if _meant(counts, other)
                and all(other[dimension] == mine[dimension] for dimension in cap["per"])
                and _in_period(cap["period"], other["at_us"], at_us, zone)
            ]
            limit, headroom = cap["limit"], cap.get("headroom")
            if headroom and campaign["priority"] < headroom["priority"]:
                limit -= headroom["last"]
            self.seen["caps"] += 1
            self.seen["full caps"] += len(counted) + 1 == limit
            if len(counted) + 1 > limit:
                self._wrong("cap", mine, f"is number {len(counted) + 1} in {name}, whose limit is {limit}")

    def _check_quota(self, spec: Spec, mine: Row) -> None:
        if mine["day"] != _day(mine["at_us"]):
            self._wrong("day", mine, "is counted under another day")
        real = [row for row in self._contacts.values() if _is_real(row) and row["state"] != "released"]
        real = [row for row in real if row["decision_id"] != mine["decision_id"]] + [mine]
        own = [row for row in real if row["campaign"] == mine["campaign"]]
        quota = spec["campaigns"][mine["campaign"]].get("quota", {})
        today = [row for row in own if row["day"] == mine["day"]]
        capacity = spec["channels"][mine["channel"]].get("per_day")
        carried = [row for row in real if (row["channel"], row["day"]) == (mine["channel"], mine["day"])]
        for what, count, limit in (
            ("quota a day", len(today), quota.get("per_day")),
            ("quota in all", len(own), quota.get("total")),
            ("budget", sum(row["cost"] for row in own), quota.get("budget")),
            ("capacity", len(carried), capacity),
        ):
            if limit is not None:
                self.seen["quotas"] += 1
                if count > limit:
                    self._wrong("quota", mine, f"makes {count} of the {what}, which is {limit}")

    def _check_story(self, spec: Spec, mine: Row) -> None:
        answered = {
            row["decision_id"] for row in self._answered[mine["subscriber_id"]] if row["kind"] in _CLOSING
        }
        for other in self._others(mine):
            if other["open_until_us"] <= mine["at_us"] or other["decision_id"] in answered:
                continue
            pair = {other["product"], mine["product"]}
            if len(pair) == 1 and other["campaign"] != mine["campaign"]:
                self._wrong("story", mine, f"while {other['campaign']} offers {mine['product']}")
            if pair == {"games", "music"} and spec["games_exclude_music"]:
                self._wrong("story", mine, f"while {other['campaign']} offers {other['product']}")

    def _check_rest(self, spec: Spec, mine: Row) -> None:
        for name, rest in spec["policies"]["cool_downs"].items():
            for row in self._answered[mine["subscriber_id"]]:
                alike = rest["scope"] == "any" or row[rest["scope"]] == mine[rest["scope"]]
                lasts = row["at_us"] + _us(rest["for"]) > mine["at_us"]
                if row["kind"] in rest["after"] and alike and lasts:
                    self._wrong("rest", mine, f"within {name} of {row['kind']}")

    def _check_consent(self, mine: Row, what: str) -> None:
        for scope in ("all", f"channel/{mine['channel']}", f"category/{mine['category']}"):
            if (mine["subscriber_id"], scope) in self._opted_out:
                self._wrong("consent", mine, f"{what} after the opt-out of {scope} was acknowledged")

    # -- a delivery is leased ---------------------------------------------------------------------

    def _check_lease(self, at_us: int, was: Row, now: Row) -> None:
        self.seen["leases"] += 1
        contact = self._contacts[now["subscriber_id"], now["decision_id"]]
        if contact["control"] or contact["state"] == "released":
            self._wrong("lease", now, "of a contact that is not to be made")
        if was.get("state") in _ENDED:
            self._wrong("lease", now, f"of what is {was['state']}")
        if was.get("state") == "leased" and was["available_at_us"] > at_us:
            self._wrong("lease", now, "while another client has it")
        if now["campaign"] in self._paused:
            self._wrong("pause", now, "was leased while it is paused")
        if not at_us < now["available_at_us"] <= now["expires_at_us"]:
            self._wrong("lease", now, "lasts beyond its offer")
        self._check_consent(contact, "was leased")
        spec = self._spec
        if now["campaign"] not in spec["campaigns"]:
            self._wrong("lease", now, "of a campaign that is gone")
            return
        last_us = now["available_at_us"] - 1
        minutes = range((at_us // MINUTE_US + 1) * MINUTE_US, last_us, MINUTE_US)
        if any(_quiet(spec, contact, each, self._zone(now)) for each in (at_us, *minutes, last_us)):
            self._wrong("quiet", now, "was leased into quiet hours")
        self._check_pace(spec, at_us, now)
        if now["attempts"] == 1:
            self._first_leases[now["channel"], _day(at_us)] += 1
            capacity = spec["channels"][now["channel"]].get("per_day")
            if capacity is not None and self._first_leases[now["channel"], _day(at_us)] > capacity:
                self._wrong("capacity", now, f"is leased beyond the {capacity} of a day")

    def _check_pace(self, spec: Spec, at_us: int, now: Row) -> None:
        """Of any second, also one in which the service was started anew."""
        given = self._leased_us[now["channel"]]
        given.append(at_us)
        pace = spec["channels"][now["channel"]].get("per_second")
        lately = sum(each > at_us - 1_000_000 for each in given)
        if pace is not None:
            self.seen["full seconds"] += lately == pace
            if lately > pace:
                self._wrong("pace", now, f"is number {lately} in a second, of {pace}")

    # -- the end ----------------------------------------------------------------------------------

    def _check_end(self) -> None:
        for row in self._contacts.values():
            self.seen[row["state"]] += not row["control"]
            delivery = self._deliveries.get(row["decision_id"])
            if row["control"] and (delivery is not None or row["state"] != "committed"):
                self._wrong("control", row, "has a delivery, or is not at its end")
            unknown = delivery["uncertain"] if delivery else row["mode"] == "manual"
            if row["state"] == "reserved" and not unknown:
                self._wrong("reserved", row, f"for ever, with {delivery}")
        for row in self._deliveries.values():
            self.seen[row["state"]] += 1
            if row["state"] not in _ENDED:
                self._wrong("delivery", row, f"is {row['state']} at the end")
        for row in table_of(self._database, "deferrals"):
            self._wrong("deferral", row, "is there at the end")
        self._check_counters()

    def _check_counters(self) -> None:
        """The counters are what the rows come to."""
        expected: Counter[tuple[str, str, int]] = Counter()
        for row in self._contacts.values():
            if _is_real(row) and row["state"] != "released":
                expected["campaign_day", row["campaign"], row["day"]] += 1
                expected["campaign_total", row["campaign"], 0] += 1
                expected["campaign_cost", row["campaign"], 0] += row["cost"]
                expected["campaign_hour", row["campaign"], row["at_us"] // (60 * MINUTE_US)] += 1
                expected["channel_day", row["channel"], row["day"]] += 1
        for (channel, day), count in self._first_leases.items():
            expected["channel_leases", channel, day] += count
        stored = {
            (row["kind"], row["name"], row["period"]): row["value"]
            for row in table_of(self._database, "usage")
        }
        for key in expected.keys() | stored.keys():
            if expected[key] != stored.get(key, 0):
                self.found.append(
                    f"counter: {key} is {stored.get(key, 0)}, the rows come to {expected[key]}"
                )

    def _check_decisions(self) -> None:
        """Of each event, each deferral and each prompt one, and no more at a time than there may be."""
        again: Counter[str] = Counter()
        for verdict in self._verdicts:
            spec, decisions = self._specs[verdict["revision"]], verdict["decisions"]
            again.update(each["deferred_of"] for each in decisions if each.get("deferred_of"))
            again.update(
                each["prompt_of"] for each in decisions if each["prompt_of"] and each["reason"] == "decided"
            )
            self.seen["deferred"] += sum(each["fate"] == "defer" for each in decisions)
            self.seen["decided again"] += sum(bool(each.get("deferred_of")) for each in decisions)
            made = [each for each in decisions if each["reason"] in ("decided", "control")]
            arbitration = spec["policies"]["arbitration"]
            for mode, most in (("automatic", "max_automatic"), ("manual", "max_prompts")):
                if sum(each["mode"] == mode for each in made) > arbitration[most]:
                    self.found.append(f"arbitration: more than {most} of one event")
            groups = Counter(
                spec["campaigns"][each["campaign"]].get("exclusive_group", "") for each in made
            )
            if any(count > 1 for name, count in groups.items() if name):
                self.found.append("arbitration: two of an exclusive group")
        twice = [id_ for id_, count in again.items() if count > 1]
        if twice:
            self.found.append(f"twice: {len(twice)} deferrals or prompts were decided again more than once")

    def _check_control(self) -> None:
        """With the same shares the same people are held back, whatever happens, and all others are not."""
        treated, held_back = defaultdict(set), defaultdict(set)
        for (who, id_), row in self._contacts.items():
            decision = self._decisions.get(id_)
            if decision is None:
                continue
            spec = self._specs[decision["revision"]]
            share = spec["campaigns"][row["campaign"]]["control_group"]
            everybody = spec["policies"]["control"]["share"]
            told = decision["mode"] == "manual" and not decision["shown"]
            if row["control"]:
                self.seen["control"] += 1
                held_back[row["campaign"], share, everybody].add(who)
                if share == "exempt" or (share, everybody) == ("0%", "0%"):
                    self._wrong("control", row, "though nobody is to be held back")
            elif not told:
                treated[row["campaign"], share, everybody].add(who)
        for key in treated.keys() & held_back.keys():
            if treated[key] & held_back[key]:
                self.found.append(f"control: {key[0]} contacted somebody of its control group")


def _is_real(row: Row) -> bool:
    return not row["control"] and not row["origin"]


def _us(duration: str) -> int:
    found = re.fullmatch(r"(\d+)([smhd])", duration)
    assert found
    return int(found[1]) * _UNITS[found[2]] * 1_000_000


def _local(at_us: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).astimezone(zone)


def _day(at_us: int) -> int:
    return _local(at_us, ZoneInfo(OPERATOR_ZONE)).date().toordinal() - date(1970, 1, 1).toordinal()


def _meant(selector: Mapping[str, list[str]], row: Row) -> bool:
    names = {"campaigns": "campaign", "products": "product", "categories": "category"}
    names |= {"channels": "channel", "modes": "mode"}
    return all(row[names[key]] in wanted for key, wanted in selector.items())


def _in_period(period: Any, other_us: int, at_us: int, zone: ZoneInfo) -> bool:
    if isinstance(period, dict):
        return other_us > at_us - _us(period["rolling"])
    one, other = _local(at_us, zone).date(), _local(other_us, zone).date()
    if period == "day":
        return one == other
    if period == "week":
        return one - timedelta(one.weekday()) == other - timedelta(other.weekday())
    return (one.year, one.month) == (other.year, other.month)


def _quiet(spec: Spec, row: Row, at_us: int, zone: ZoneInfo) -> bool:
    for window in spec["policies"]["quiet_hours"].values():
        if not _meant(window["applies_to"], row):
            continue
        local = _local(at_us, zone)
        clock, today = f"{local:%H:%M}", local.date()
        yesterday = today - timedelta(1)
        if window["from"] < window["to"]:
            inside = window["from"] <= clock < window["to"] and _begins(window, today)
        else:
            inside = (clock >= window["from"] and _begins(window, today)) or (
                clock < window["to"] and _begins(window, yesterday)
            )
        if inside:
            return True
    return False


def _begins(window: Spec, day: date) -> bool:
    return WEEKDAYS[day.weekday()] in window["days"] or ("workday" in window["days"] and day.weekday() < 5)
