"""Maps compared with masks: metrics, thresholds chosen on other images, controls, comparisons. Imports no torch."""
