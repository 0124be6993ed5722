"""What a permitted action is forwarded to: programs beside the agent, servers of the Model Context Protocol, relying services."""
