"""From dense Qwen2.5-VL checkpoints to two branches, and what adapters attach to."""

from .adapters import branch_target_modules
from .chat_template import prepare_processor
from .hub_folder import save_hub_folder
from .upcycle import upcycle, upcycle_checkpoint


__all__ = ["branch_target_modules", "prepare_processor", "save_hub_folder", "upcycle", "upcycle_checkpoint"]
