"""Maps against masks: metrics, thresholds that are chosen on other images, controls, comparisons. Imports no torch."""
