"""Emulators of CloudWatch and AppConfig, and readers of template.yaml for alarms and dashboards."""
