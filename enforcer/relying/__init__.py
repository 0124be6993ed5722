"""What a relying service installs to accept Writ's tokens. Knows nothing of the agent host."""
