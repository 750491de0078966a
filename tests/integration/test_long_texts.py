"""A text that takes more SMS than its channel may send goes nowhere, even if its template fitted."""

from __future__ import annotations

import pytest
from support.applications import decided, in_loop, running
from support.small_rulebase import mms, small_rulebase, subscribers

(ANNE,) = subscribers(1)


@pytest.mark.parametrize(("size_kb", "fits"), [(8, True), (80, False)])
@pytest.mark.parametrize("bounded", [True, False])
def test_the_rendered_text_must_fit_its_channel(size_kb: int, fits: bool, bounded: bool) -> None:
    async def body() -> None:
        files = small_rulebase(threshold=1, text="x" * 159 + "{{event.size_kb}}")
        if bounded:
            files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
                b"sms: {mode: automatic}", b"sms: {mode: automatic, max_segments: 1}"
            )
        async with running(files=files) as app:
            receipt = await app.ingest.publish("test", [mms(ANNE, "e1", size_kb=size_kb)])
            expected = [(ANNE, "mms-bundle")] if fits or not bounded else []
            assert decided(receipt.verdicts) == expected

    in_loop(body)
