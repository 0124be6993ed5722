"""Programs to try Writ with: a small agent, its manifest, its policy, and the demonstration that runs them."""
