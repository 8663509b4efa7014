"""From dense Qwen2.5-VL checkpoints to two branches."""

from .chat_template import prepare_processor
from .hub_folder import save_hub_folder
from .upcycle import upcycle, upcycle_checkpoint


__all__ = ["prepare_processor", "save_hub_folder", "upcycle", "upcycle_checkpoint"]
