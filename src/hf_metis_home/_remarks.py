"""
Messages that torchao and bitsandbytes log at import, which users of this library can do nothing about. transformers and
PEFT import both if they are installed.
"""

import logging


REMARKS = {
    "torch.utils._pytree": "register_constant() on Enum subclasses",
    "bitsandbytes.backends.cpu.ops": "from kernels-community",
}


def leave_out_remarks() -> None:
    """Drop these messages from the log of this process. Imports neither library."""
    for name in REMARKS:
        logging.getLogger(name).addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return REMARKS[record.name] not in record.getMessage()
