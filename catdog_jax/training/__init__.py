"""One step, one epoch, one fit; pure functions of explicit state."""
