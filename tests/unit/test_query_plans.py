"""What the check of the contract suite on query plans finds, and what it lets pass."""

from __future__ import annotations

import pytest
from support.query_plans import scans


@pytest.mark.parametrize(
    ("statement", "read"),
    [
        # What SQLAlchemy makes of a function of type boolean: correct, and no index serves it.
        ("SELECT * FROM contacts WHERE subscriber_id IN ('86130', '86131') = 1", "SCAN contacts"),
        ("SELECT * FROM contacts WHERE subscriber_id IN ('86130', '86131')", ""),
        ("SELECT * FROM contacts WHERE at_us / 2 > 7", "SCAN contacts"),
        ("SELECT * FROM decisions ORDER BY cursor DESC LIMIT 10", ""),
        ("SELECT * FROM decisions ORDER BY reason LIMIT 10", "SCAN decisions"),
        ("UPDATE deliveries SET token = 1 WHERE content = 'x'", "SCAN deliveries"),
        ("SELECT count(*) FROM members", ""),  # there are a few
    ],
)
def test_reading_from_end_to_end_is_found(statement: str, read: str) -> None:
    assert [step for step, _ in scans([statement])] == ([read] if read else [])
