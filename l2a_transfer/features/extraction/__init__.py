"""From an image source and a backend to a feature file, in ranges that can be resumed and shared out."""
