"""Latency profiles: the record, its file, and its compilation to step-time terms."""
