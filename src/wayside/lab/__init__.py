"""Scenarios of the design, played with real daemons and real traffic in namespaces."""
