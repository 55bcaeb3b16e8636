"""Experiment trackers: log trials while they train, or export them afterwards."""
