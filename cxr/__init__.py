"""Chest X-ray competition systems: five numbered steps over this small package."""
