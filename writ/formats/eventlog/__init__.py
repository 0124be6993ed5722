"""Event logs: firmware, IMA, runtime."""
