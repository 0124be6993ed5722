"""What a program that signs checkpoints for others needs, whatever it signs them for: a folder, a file, an address, and HTTP.

`folder` holds key and name, `database` opens the file of what must not be forgotten, `listen` says where and until when, `http` speaks.
Used by `witness` and `store`.
"""
