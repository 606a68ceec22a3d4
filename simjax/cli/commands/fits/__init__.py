"""Commands that fit profiles, hand-overs and power."""
