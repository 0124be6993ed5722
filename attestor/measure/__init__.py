"""What an agent's runtime consists of: walked, hashed, stored, watched."""
