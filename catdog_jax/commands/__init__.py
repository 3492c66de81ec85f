"""The commands: their options (`settings`, `options`), and what each does.

Modules that need JAX are imported inside the functions, so that `--help` is fast.
"""
