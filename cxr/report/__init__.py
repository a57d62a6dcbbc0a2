"""report.html: curves, galleries, tables, runs side by side."""
