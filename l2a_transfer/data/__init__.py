"""What goes in: data sets, readers, augmentation and batches."""
