"""Power of devices, nodes and facilities, independent of any model and of any run."""
