"""Train a VGG that pays attention, freeze it, and measure how well its attended features generalize."""

__version__ = "0.1.0"
