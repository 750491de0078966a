"""A rulebase for services with a real clock: nothing depends on the hour. A call brings a gift by SMS, a
visit a call from the outbound centre, by interface file."""

from __future__ import annotations

from textwrap import dedent


def shop_rulebase(*, gift: str = "") -> dict[str, bytes]:
    """Files. `gift`: more keys of the campaign."""
    files = {
        "rulebase.yaml": "rulebase: shop\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events:
              call_made: {}
              counter_visit: {}
              ordered: {attributes: {product: string}}
              reply_received: {attributes: {text: string, channel: string}}
            subscriber: {age: int}
            channels:
              sms: {mode: automatic}
              outbound: {mode: manual, bulk: true}
            products:
              gift: {label: 礼包, category: loyalty}
              care: {label: Care plan, category: care}
            """,
        "campaigns/gift.yaml": f"""\
            campaign: gift
            label: 积分兑换
            product: gift
            on: [call_made]
            mode: automatic
            channels: [sms]
            content: {{sms: "尊敬的客户，回复1领取{{{{product.label}}}}"}}
            conversion: {{event: ordered, when: event.product == "gift", within: 7d}}
            {gift}
            """,
        "campaigns/care.yaml": """\
            campaign: care
            label: Care & <comfort>
            product: care
            on: [counter_visit]
            mode: manual
            channels: [outbound]
            content: {outbound: "Ask, how it went"}
            """,
        "policies.yaml": """\
            replies:
              event: reply_received
              text: event.text
              channel: event.channel
              accepted: ["1", "yes"]
              refused: ["n"]
            """,
    }
    return {name: dedent(text).encode() for name, text in files.items()}
