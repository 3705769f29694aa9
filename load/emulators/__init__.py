"""CloudWatch, emulated, and a reader of template.yaml."""
