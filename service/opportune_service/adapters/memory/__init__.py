"""Adapters that keep everything in this process's memory."""

from opportune_service.adapters.memory.live_state import MemoryLiveState

__all__ = ["MemoryLiveState"]
