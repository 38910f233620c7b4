"""Ingestion as a service: uploads, runs and watched folders."""
