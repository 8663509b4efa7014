"""From dense Qwen2.5-VL checkpoints to two branches, and what adapters attach to."""

from .adapters import branch_target_modules
from .branch_kinds import change_branch_kind
from .estimate import estimate_memory
from .export import export_checkpoint
from .hub_folder import save_hub_folder
from .processor import prepare_processor
from .router_start import initialise_router
from .upcycle import upcycle, upcycle_checkpoint
from .validate import validate_checkpoint


__all__ = [
    "branch_target_modules",
    "change_branch_kind",
    "estimate_memory",
    "export_checkpoint",
    "initialise_router",
    "prepare_processor",
    "save_hub_folder",
    "upcycle",
    "upcycle_checkpoint",
    "validate_checkpoint",
]
