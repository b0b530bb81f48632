"""`retro init`: a run's YAML file for a folder of text, every setting in it chosen and explained."""
