"""`auditor report`: what an audit found, as one page that a person can read and check again."""
