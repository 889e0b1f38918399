"""Faces drawn from action units: data for demonstrations and tests, labeled as drawn wherever they go."""
