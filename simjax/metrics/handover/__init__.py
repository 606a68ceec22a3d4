"""Hand-overs from prefill to decode instances: parts of the time to first token, and the use of links."""
