"""A small, literal simulator in plain Python: the oracle that the JAX engine is compared with."""
