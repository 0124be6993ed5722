"""A small agent with no model: it does what its prompt says, one action a line, and asks the enforcer for each.

Standard library only. It never sees a token or a key: it writes a request to
the socket that `WRIT_SOCKET` names and gets the result or the refusal.

A prompt line is `TOOL METHOD {JSON arguments}`, `pause SECONDS` or `repeat`
(from the first line again). Lines beginning with `#` are for people.
"""

import json
import os
import socket
import sys
import time
from typing import Any


def ask(stream: Any, number: int, tool: str, method: str, arguments: object) -> dict[str, Any]:
    """Ask for one action; the enforcer decides, records, performs it, and answers."""
    request = {"id": number, "tool": tool, "method": method, "arguments": arguments}
    stream.write(json.dumps(request, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    stream.flush()
    line = stream.readline()
    if not line:
        sys.exit("the enforcer closed the gate")
    answer: dict[str, Any] = json.loads(line)
    return answer


def show(tool: str, method: str, answer: dict[str, Any]) -> None:
    """One line a person can read, for a result as for a refusal."""
    if answer["ok"]:
        print(f"{tool}.{method}: done, reference {answer['reference']}", flush=True)
    elif "refusal" in answer:
        for reason in answer["refusal"]["reasons"]:
            print(f"{tool}.{method}: refused, {reason['code']}, reference {answer['reference']}", flush=True)
    else:
        print(f"{tool}.{method}: failed, {json.dumps(answer.get('result', answer.get('failure')), sort_keys=True)}", flush=True)


def main() -> None:
    """Follow the prompt to its end."""
    with open(sys.argv[1], encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    steps = [line for line in lines if line and not line.startswith("#")]
    with socket.socket(socket.AF_UNIX) as gate:
        gate.connect(os.environ["WRIT_SOCKET"])
        stream = gate.makefile("rwb")
        at = number = 0
        while at < len(steps):
            word, _, rest = steps[at].partition(" ")
            at += 1
            if word == "repeat":
                at = 0
            elif word == "pause":
                time.sleep(float(rest))
            else:
                number += 1
                method, _, arguments = rest.partition(" ")
                show(word, method, ask(stream, number, word, method, json.loads(arguments or "{}")))


if __name__ == "__main__":
    main()
