"""Hooks for agent frameworks, which ask the enforcer before a tool of the framework's own runs in the agent's process.

They are **advisory**: the process that asks is the one that acts, so it can leave the asking out, and every record says gate
`advisory`. What an agent cannot step around are its sandbox and the other gates. A hook earns its place by refusing early,
with a reason that the model can read, and by leaving a record of tools that no other gate sees.

Each refuses where anything is amiss: no gate, no answer in time, an answer that it does not understand. Nothing here imports
anything of ours or of others but the one framework, so an agent's image needs this folder and no more.
"""
