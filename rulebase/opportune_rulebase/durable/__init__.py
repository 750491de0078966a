"""Matching by durable_rules, caged: see `cage` for what of it is used, and `engine` for how."""

from opportune_rulebase.durable.engine import DurableEngine

__all__ = ["DurableEngine"]
