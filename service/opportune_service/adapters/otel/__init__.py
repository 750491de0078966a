"""Spans of calls, sent by OpenTelemetry."""
