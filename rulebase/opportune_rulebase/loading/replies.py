"""What customers' answers mean: words that accept, refuse or opt out."""

from __future__ import annotations

from collections.abc import Iterator

from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.common import attribute_of, exactly_one
from opportune_rulebase.loading.fields import Fields
from opportune_rulebase.loading.problems import Code, clip
from opportune_rulebase.model import ValueType, Vocabulary
from opportune_rulebase.policies import MAX_REPLY, OPT_OUT_WORDS, Replies, reply_word


def read_replies(policies: Fields, vocabulary: Vocabulary) -> Replies | None:
    """The replies; None if nothing is said of them. Errors go to the report of `policies`."""
    node, report = policies.node("replies"), policies.report
    if node is None:
        return None
    fields = Fields(report, node, "replies", keys_in("replies"), at=policies.key_at("replies"))
    fields.require("event", "text")
    where = exactly_one(fields, ("channel", "on_channel"))
    sent = {name: each for name, each in vocabulary.events.items() if not each.derived}
    event = fields.choice("event", "event type", sent)
    of = [event] if event else []
    text = attribute_of(fields, "text", of, vocabulary, (ValueType.STRING,))
    channel = attribute_of(fields, "channel", of, vocabulary, (ValueType.STRING,))
    if text and text == channel:
        message = f"'text' and 'channel' are both event.{text}"
        hint = "name the attribute that says on which channel the customer wrote, or use 'on_channel'"
        fields.report.error(fields.place("channel"), Code.BAD_VALUE, message, hint)
    on_channel = fields.choice("on_channel", "channel", vocabulary.channels)
    words = _words(fields)
    return Replies(
        event=event or "",
        text=text or "",
        channel=channel,
        on_channel=(on_channel or "") if where == "on_channel" else "",
        accepted=words["accepted"],
        refused=words["refused"],
        opt_out=words["opt_out"],
    )


def _words(fields: Fields) -> dict[str, frozenset[str]]:
    accepted, refused, opt_out = (dict(_read(fields, key)) for key in ("accepted", "refused", "opt_out"))
    closing = OPT_OUT_WORDS | opt_out.keys()
    for word, written in accepted.items():
        other = "among the words that always opt out"
        if word in refused or word in opt_out:
            other = "under 'refused'" if word in refused else "under 'opt_out'"
        if word in closing | refused.keys():
            message = f"{written!r} stands under 'accepted' and {other}"
            fields.report.warning(fields.place("accepted"), Code.NO_EFFECT, message, "keep it in one list")
    return {
        "accepted": frozenset(accepted),
        "refused": frozenset(refused),
        "opt_out": frozenset(opt_out),
    }


def _read(fields: Fields, key: str) -> Iterator[tuple[str, str]]:
    """Each word as it is compared, and as it is written."""
    for node in fields.scalars(key, "a word"):
        word = reply_word(node.text)
        if word:
            yield word, node.text
        elif len(node.text) > MAX_REPLY:
            message = f"{clip(node.text)!r} is longer than {MAX_REPLY} characters"
            fields.report.error(node.at, Code.TOO_LARGE, message, "write what a customer would answer")
        else:
            message = f"nothing is left of {clip(node.text)!r} without punctuation"
            fields.report.error(node.at, Code.BAD_VALUE, message, "write letters or digits")
