"""Messages of the Model Context Protocol, revisions 2026-07-28, 2025-11-25 and 2025-06-18: a file for each kind of thing that is read."""
