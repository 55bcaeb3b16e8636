"""Notifications of a study's events: see docs/tracking.md."""
