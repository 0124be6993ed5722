"""Shells that two roles need: they fetch, store, sign and talk, and decide nothing."""
