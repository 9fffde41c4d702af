"""The protocol, pure: no clock, no I/O, no randomness of its own."""
