"""Compiler options for derivatives in tests: these programs run for milliseconds and compile for seconds."""

QUICKLY = {"xla_backend_optimization_level": 0}
