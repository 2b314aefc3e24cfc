"""Probes: classifiers on frozen features, one file each, whose hyper-parameters are chosen on training rows."""
