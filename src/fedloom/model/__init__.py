"""The frozen base model, grouped adapters over it, packed batches, and PEFT's format at the border."""

import logging

# PEFT imports bitsandbytes wherever it is installed, which then warns of a kernel that nobody has asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
