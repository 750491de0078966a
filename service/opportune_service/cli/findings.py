"""What `opportune doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """FAULT: the service does not start, or does not do what it promises. WARNING: it will not, one day."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """`advice`: what to do about it; "" if there is nothing to be done."""

    subject: str
    status: Status
    text: str
    advice: str = ""

    def record(self) -> dict[str, str]:
        """For programs."""
        return {
            "subject": self.subject,
            "status": self.status.value,
            "text": self.text,
            "advice": self.advice,
        }
