"""Faces drawn from action units: data for demonstrations and tests, labelled as drawn wherever they go."""
