"""Presentation of results as pages, Markdown, tables and figures. Nothing is computed here."""
