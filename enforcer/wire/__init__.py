"""How a gate hears and is heard, whatever it gates: listeners that a cut reaches, bytes to and from one side, heads of HTTP, lines."""
