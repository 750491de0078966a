"""What can go wrong in a use case; mapped to status codes in one table at the edge.

OpportuneError
|-- InvalidRequestError      the caller's fault; says which field
|-- NotFoundError
|   |-- UnknownDecisionError
|   `-- UnknownRevisionError
|-- UnauthenticatedError     nobody knows who calls
|-- ForbiddenError           the caller is known, and may not do this
|   `-- UnsignedError        nobody who may sign has signed this rulebase
|-- RateLimitedError         the caller calls more often than it may; says when to try again
|-- NotReadyError            the state of the system does not allow it yet; says what is missing
|   `-- UnloadableRevisionError  a stored revision that does not load; carries its problems
|-- RulebaseRefusedError     a rulebase that does not load; carries its problems
|-- ConflictError            the world is not as the caller expected
|   `-- StoreConflictError
|-- PrunedError              it was there once, and is not kept any more
|-- NoRulebaseError          nothing is active yet
`-- StoreUnavailableError    try again; nothing was acknowledged
    |-- OutdatedError        what the call was made from may not be in the record any more
    |-- SupersededError      between members only: what this one works under is not valid any more
    `-- ExpelledError        between members only: the others took this one for dead
"""

from __future__ import annotations

from opportune_rulebase.errors import Problem, Severity


class OpportuneError(Exception):
    """Base of all errors that a caller may meet. The message is for people and holds nobody's number."""


class InvalidRequestError(OpportuneError):
    """A request that can never succeed as it stands. `field` is the path of the field at fault."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


class NotFoundError(OpportuneError):
    """What was named does not exist."""


class UnknownDecisionError(NotFoundError):
    """No decision has this id."""


class UnknownRevisionError(NotFoundError):
    """No uploaded rulebase has this revision."""


class UnauthenticatedError(OpportuneError):
    """Whoever calls did not show who it is. The message says what is missing, and never quotes a token."""


class ForbiddenError(OpportuneError):
    """The caller is known, and is not one who may do this."""


class RateLimitedError(OpportuneError):
    """The caller calls more often than it may. After `wait_us` microseconds it may again."""

    def __init__(self, message: str, wait_us: int) -> None:
        self.wait_us = wait_us
        super().__init__(message)


class UnsignedError(ForbiddenError):
    """The rulebase has no signature by anybody whose signature this service asks for."""


class NotReadyError(OpportuneError):
    """The state of the system does not allow it yet; the message says what has to come first."""


class UnloadableRevisionError(NotReadyError):
    """A stored revision is a draft, or one that this release does not take any more: see `problems`."""

    def __init__(self, message: str, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__(message)


class RulebaseRefusedError(OpportuneError):
    """The rulebase has errors; nothing was loaded or changed."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        errors = [p for p in problems if p.severity is Severity.ERROR]
        first = f"; the first: {errors[0].position}: {errors[0].message}" if errors else ""
        super().__init__(f"the rulebase has {len(errors)} error(s), nothing was changed{first}")


class ConflictError(OpportuneError):
    """Somebody else changed it first; read again and decide anew."""


class StoreConflictError(ConflictError):
    """The store holds something else than expected."""


class PrunedError(OpportuneError):
    """What was asked for is older than what is kept; the archive may have it."""


class NoRulebaseError(OpportuneError):
    """No rulebase is active; upload and activate one."""


class StoreUnavailableError(OpportuneError):
    """The ledger cannot be reached or written now. Nothing of this call was acknowledged; retry."""


class OutdatedError(StoreUnavailableError):
    """What the caller read of the record before need not hold any more: read it again."""


class SupersededError(StoreUnavailableError):
    """Another member activated a revision or rebuilds live state: look what is new and do it again."""


class ExpelledError(StoreUnavailableError):
    """The other members have taken this one for dead and taken over: join anew."""
