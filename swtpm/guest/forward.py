"""One connection of the guest, carried to a port of this host's loopback address: QEMU starts one of these for each (`guestfwd=...-cmd:`).

Started as a script, without our packages: standard input and output are the guest's side.
"""

import os
import select
import socket
import sys

_CHUNK = 65536


def main() -> int:
    """Carry bytes both ways until either side ends."""
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as host:
        host.settimeout(None)
        while True:
            ready, _, _ = select.select([0, host.fileno()], [], [])
            if 0 in ready:
                data = os.read(0, _CHUNK)
                if not data:
                    return 0
                host.sendall(data)
            if host.fileno() in ready:
                data = host.recv(_CHUNK)
                if not data:
                    return 0
                while data:
                    data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit(main())
