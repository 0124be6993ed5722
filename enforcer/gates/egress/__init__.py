"""The agent's way out of its network namespace: an HTTP proxy on a loopback that it shares with nobody.

| `outlet`       | what an instance's grants open, for each of its sandboxes |
| `gate`         | the proxy: what is asked of it, and which of the two ways that goes |
| `session`      | the one: requests, each an action on its URL |
| `tunnel`       | the other: bytes both ways, begun as was granted, counted and bounded |
| `passage`      | ports of one kind of connection each, for what speaks to no proxy |
| `way`          | what both have in common: action, ruling, address, outcome |
| `line`         | a listener and its connections, and the cut of them all |
| `dial`         | a destination to a connection with it |
| `addresses`    | names to addresses, and which of those are not public |
| `destination`  | a host and a port, in the one spelling that an action has |
| `url`          | a path, in the same |
| `request`      | the head of a request, strictly |
| `client_hello` | what a TLS client says first, strictly |
| `injection`    | secrets in the place of their placeholders |
| `exchange`     | one request and its answer |
| `side`         | one side of it, whatever the version; HTTP/1.1 |
| `http2`        | a connection of HTTP/2, and its streams as sides |
| `frames`       | what may be asked for with its frames |
| `upstream`     | the connections with a host, for one connection of the agent |
| `stream`       | bytes to and from somebody, in TLS or not |
| `instance_ca`  | who vouches for us to the agent |
| `answer`       | what we say to it |
"""
