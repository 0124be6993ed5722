"""Secrets of agents: where they come from, and who holds them for an instance while its tokens are in force."""
