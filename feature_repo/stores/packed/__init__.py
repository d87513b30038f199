"""Feast's online store as one packed row per view and entity in Redis, its direct reader and its engine."""
