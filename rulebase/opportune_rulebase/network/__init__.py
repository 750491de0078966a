"""The default engine: generated Python over an index of necessary conditions.

NetworkEngine     the engine (engine.py)
index             which campaigns can still match, by the value of one variable after another
conditions        a `when`, taken apart into conditions that must all hold
codegen           expressions as Python source
functions         what generated source calls
"""

from opportune_rulebase.network.engine import NetworkEngine

__all__ = ["NetworkEngine"]
