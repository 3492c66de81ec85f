"""A page on this machine to drop photos on, and the same answers as JSON."""
