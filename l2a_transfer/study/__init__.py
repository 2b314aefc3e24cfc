"""A whole study from a file: networks trained, extracted, evaluated, compared over seeds and targets, and reported."""
