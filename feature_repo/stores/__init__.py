"""Feast plug-ins: the ASOF offline store, the Redis online store of a workspace, the embedded server."""
