"""The language every room speaks: schemas, settings, errors, the clock, logs."""
