"""What happened: the append-only event log, its readers, importers and the simulated world."""
