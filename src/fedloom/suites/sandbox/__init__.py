"""Running programs that a model wrote: shut in, bounded, and each ended with a reason."""
