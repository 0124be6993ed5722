"""Child instances: an agent that writes and runs code does it in one, never in itself."""
