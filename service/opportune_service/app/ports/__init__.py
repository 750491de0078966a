"""What the use cases need of the outside world. Each port states its guarantees and non-guarantees.

One contract suite (tests/contract) runs against every adapter of a port.
"""

from opportune_service.app.ports.clock import Clock
from opportune_service.app.ports.files import Archive, BackedUp
from opportune_service.app.ports.ledger import Ledger
from opportune_service.app.ports.live_state import LiveState
from opportune_service.app.ports.transaction import LedgerTransaction

__all__ = ["Archive", "BackedUp", "Clock", "Ledger", "LedgerTransaction", "LiveState"]
