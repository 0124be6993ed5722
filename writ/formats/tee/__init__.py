"""Evidence of trusted execution environments: bytes to frozen types, nothing judged."""
