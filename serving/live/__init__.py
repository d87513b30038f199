"""What changes between two snapshots: posts, users and counters that follow the journal within a second."""
