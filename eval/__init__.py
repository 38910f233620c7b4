"""Measures an assistant: suites, the four arms, metrics, report, diagnosis and failure signals."""
