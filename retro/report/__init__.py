"""Pages and tables of what was measured: for a browser (jinja2 and matplotlib) and for the terminal."""
