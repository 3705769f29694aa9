"""The dashboard of template.yaml, drawn from what a real run on this machine emitted."""
