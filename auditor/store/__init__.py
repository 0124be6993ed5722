"""A store of action logs off their hosts: takes what extends what it has, keeps it for ever, and cosigns what it has whole.

`records` keeps, `keeper` judges and signs, `export` reads back; the rest is `serving`.
"""
