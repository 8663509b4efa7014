"""
What torchao and bitsandbytes say when they are imported, which transformers and PEFT do wherever they are installed:
nothing that a user of this library could act on.
"""

import logging


REMARKS = {
    "torch.utils._pytree": "register_constant() on Enum subclasses",
    "bitsandbytes.backends.cpu.ops": "from kernels-community",
}


def leave_out_remarks() -> None:
    """Keeps them out of this process's log, and nothing else. Imports neither."""
    for name in REMARKS:
        logging.getLogger(name).addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return REMARKS[record.name] not in record.getMessage()
