"""Adapters to AWS services: telemetry by Powertools, feature flags from AppConfig."""
