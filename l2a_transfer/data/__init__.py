"""Input: data sets, readers, augmentation and batches."""
