"""Merkle trees as RFC 9162 section 2.1 and C2SP tlog-tiles know them."""
