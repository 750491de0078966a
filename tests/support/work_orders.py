"""A work order for the small rulebase."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from opportune.v1 import rulebase_service_pb2 as pb

ORDER = dedent("""\
    campaign: autumn-mms
    label: MMS in autumn
    product: mms-bundle
    on: [mms_sent]
    when: ${heavy senders} && event.size_kb > 10
    mode: automatic
    channels: [sms]
    content: {sms: "Autumn prices"}
    """)
BOUND = {"heavy senders": "behaviour.often_sends_mms"}


def order(**fields: Any) -> pb.UploadRulebaseRequest:
    fields = {"order_id": "2026-0815", "document": ORDER, "scene_bindings": BOUND} | fields
    return pb.UploadRulebaseRequest(work_order=pb.WorkOrder(**fields), comment="by the plan")
