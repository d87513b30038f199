"""How feature tables are built: which hours, from which files, continuing from which state, into which partitions."""
