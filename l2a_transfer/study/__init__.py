"""Running a whole study from a file: train, extract, evaluate, compare over seeds and targets, and report."""
