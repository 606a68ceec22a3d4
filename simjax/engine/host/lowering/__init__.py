"""The parts of the engine's arrays that belong to one subsystem each, for `simjax.engine.host.lower`."""
