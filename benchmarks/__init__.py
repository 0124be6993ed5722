"""What Writ's steps cost, each beside the bare operation that no implementation can do without, measured in the same run."""
