"""What bounds a campaign over all subscribers: quotas and alarms."""

from __future__ import annotations

from typing import Final

from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.fields import DAY_US, Fields
from opportune_rulebase.loading.problems import Code
from opportune_rulebase.policies import SHARES, Alarm, Fate, Quota

MAX_CONTACTS: Final = 1_000_000_000
"""A day or a life: nobody has so many subscribers."""
MAX_BUDGET: Final = 1_000 * MAX_CONTACTS
MAX_ALARM_US: Final = 30 * DAY_US


def read_quota(campaign: Fields) -> Quota | None:
    """The quota of a campaign; None if it has none."""
    fields = _section(campaign, "quota")
    if fields is None:
        return None
    fields.require_any("per_day", "total", "budget")
    quota = Quota(
        per_day=fields.count("per_day", most=MAX_CONTACTS),
        total=fields.count("total", most=MAX_CONTACTS),
        budget=fields.count("budget", most=MAX_BUDGET),
        otherwise=fields.fate(),
    )
    if quota.otherwise is Fate.DEFER and fields.node("per_day") is None:
        message = f"nothing comes back to {fields.what}, so nothing can wait for it"
        hint = "write 'otherwise: drop' or 'next', or add 'per_day'"
        fields.report.error(fields.place("otherwise"), Code.BAD_VALUE, message, hint)
    return quota


def read_alarm(holder: Fields) -> Alarm | None:
    """The alarm of a campaign or of the policies; None if nothing is said."""
    fields = _section(holder, "alarm")
    if fields is None:
        return None
    default = Alarm()
    fields.require_any("complaint_rate", "per_hour")
    fields.goes_with("at_least", "complaint_rate")
    fields.goes_with("within", "complaint_rate")
    rate = None if fields.node("complaint_rate") is None else fields.share("complaint_rate") / SHARES
    if rate == 1:
        message = f"{fields.what} never rings: no more than 100% can complain"
        hint = "2% is usual"
        fields.report.warning(fields.place("complaint_rate"), Code.NO_EFFECT, message, hint)
    return Alarm(
        complaint_rate=rate,
        at_least=fields.integer("at_least", default.at_least, least=1, most=1_000_000),
        within_us=fields.duration("within", default.within_us, most=MAX_ALARM_US),
        per_hour=fields.count("per_hour", least=1, most=MAX_CONTACTS),
    )


def _section(holder: Fields, key: str) -> Fields | None:
    node = holder.node(key)
    what = f"the {key} of {holder.what}"
    return Fields(holder.report, node, what, keys_in(key), at=holder.key_at(key)) if node else None
