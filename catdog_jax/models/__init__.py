"""The networks, and the ways to fill them: they take arrays, never data sets."""
