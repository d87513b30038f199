"""Sources of candidates; each is one small class that obeys the same contract."""
