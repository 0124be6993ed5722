"""`auditor log`: a log read whole, kept, and compared."""
