"""Experiment trackers that trials are passed to while they train, or exported to afterwards."""
