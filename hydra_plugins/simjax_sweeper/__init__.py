"""Hydra's plugin scanner finds `plugin`; `hydra_plugins` itself is a namespace that all plugins share, and must have no `__init__`."""
