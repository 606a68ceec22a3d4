"""Serving software by release: what changed when, in one table."""
