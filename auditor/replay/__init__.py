"""`auditor replay`: what was decided is decided again."""
