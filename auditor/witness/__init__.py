"""A witness of logs: it cosigns a checkpoint once it has seen that all it cosigned before is still in it.

`directory` makes and opens its folder, `state` keeps the last checkpoint of each log, `cosigner` judges and signs, `server` speaks HTTP.
"""
