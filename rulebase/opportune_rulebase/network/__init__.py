"""The default engine: generated Python that asks first what tells most.

NetworkEngine     the engine (engine.py)
conditions        a `when`, taken apart into conditions that must all hold, and how likely each is
matcher           the source for an event type: tables by value, down to few campaigns
block             a few campaigns as straight-line source
crowd, index      many campaigns: which can still match, by the value of one key after another
codegen           expressions as Python source
operations        variables and operations as Python source
functions         what generated source calls
facts             facts without the values that do not fit their declared types
"""

from opportune_rulebase.network.engine import NetworkEngine

__all__ = ["NetworkEngine"]
