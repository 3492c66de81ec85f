"""The folder of what is slow to make again: decoded photos, weights, compiled programs."""

import os
from pathlib import Path

import pooch

from .files import expanded


def cache_folder(chosen: str | Path | None = None) -> Path:
    """`chosen`, or `$CATDOG_CACHE`, or the user's cache folder."""
    folder = chosen or os.environ.get("CATDOG_CACHE") or pooch.os_cache("catdog_jax")
    return expanded(folder)
