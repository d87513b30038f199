"""How we learn: point-in-time training sets, labels, splits, sampling, recipes, tracking, index, evaluation."""
