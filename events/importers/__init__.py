"""Importers: outside files become rows of the log; each row is taken, or refused with a reason that is kept."""
