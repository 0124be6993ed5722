"""The gate for clients of the Model Context Protocol: over Streamable HTTP and on standard input and output, in front of local servers."""
