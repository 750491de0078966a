"""Live state in Redis or Redis Cluster."""

from opportune_service.adapters.redis.live_state import RedisLiveState

__all__ = ["RedisLiveState"]
