"""Vision encoder, projector and language model as one Hugging Face model; Lightning is not imported here."""

import logging

# peft imports bitsandbytes where it is installed, which then remarks that an optional kernel for CPUs is not.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
