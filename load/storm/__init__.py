"""Cold-start storms: ``python -m load.storm``."""
