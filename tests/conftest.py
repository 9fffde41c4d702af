"""How hypothesis runs here: no property of ours is about how fast this machine is just now."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("wayside", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wayside")
