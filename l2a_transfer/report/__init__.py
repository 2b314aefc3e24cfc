"""How results look: a page, Markdown, tables, charts and plots. Nothing is computed here."""
