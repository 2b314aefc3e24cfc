"""Probes: classifiers on frozen features, one file each, that choose what they choose on training rows."""
