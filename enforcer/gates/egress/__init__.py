"""The agent's way out of its network namespace: an HTTP proxy on a loopback that it shares with nobody.

| `destination`  | a host and a port, in the one spelling that an action has |
| `addresses`    | names to addresses, and which of those are not public |
| `request`      | the head of a request, strictly |
| `client_hello` | what a TLS client says first, strictly |
| `tunnel`       | bytes both ways, counted and bounded |
| `exchange`     | one plain HTTP request and its answer |
| `gate`         | the listener: action, ruling, address, forwarding, outcome |
"""
