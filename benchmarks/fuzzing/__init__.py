"""Hostile files, one module a format: whole files, what is done to them, and what reading them gives."""
