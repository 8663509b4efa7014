"""Converting checkpoints: dense to two-branch and back, adapters, checks and estimates."""

from .adapters import branch_target_modules
from .branch_kinds import change_branch_kind
from .estimate import estimate_memory
from .export import export_checkpoint
from .hub_folder import save_hub_folder
from .processor import prepare_processor
from .router_examples import initialise_router
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
