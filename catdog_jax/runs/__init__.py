"""Runs on disk: what they are, how they are carried out, saved, resumed and judged."""
