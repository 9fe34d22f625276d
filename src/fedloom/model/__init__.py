"""The frozen base model, grouped adapters over it, packed batches, and PEFT's format at the border."""
