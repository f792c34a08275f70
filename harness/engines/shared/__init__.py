"""What engines share: prefix trees, batches that shrink, memory meters."""
