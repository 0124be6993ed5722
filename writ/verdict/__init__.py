"""Every trust decision: pure functions of bytes, types, recorded state, `now` and given randomness."""
