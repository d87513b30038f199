"""Suites as plain functions, one module per kind of table."""
