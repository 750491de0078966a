"""Metrics for Prometheus, and probes over plain HTTP."""
