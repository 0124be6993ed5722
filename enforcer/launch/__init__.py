"""Starting an agent where it can be frozen and killed: its cgroup, what runs before its exec, and the store it runs from."""
