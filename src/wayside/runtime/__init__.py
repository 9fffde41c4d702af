"""The daemons: the only sockets, clock and event loop."""
