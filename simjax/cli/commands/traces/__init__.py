"""Commands on request traces."""
