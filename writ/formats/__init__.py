"""Bytes to frozen types and back, one spelling each. Pure: no I/O, no clock, no randomness, no policy engine."""
