"""Integrations of both modules into training frameworks; importing one file imports only its own framework."""
