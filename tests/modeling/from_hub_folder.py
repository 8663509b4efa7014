"""
A pytest plugin that puts the classes of a Hub folder in the place of the package: tests then judge shipped files.

`hf_metis_home` then has nothing but `modeling`, whose names come from the folder in `METIS_HOME_HUB_FOLDER`.
"""

import os
import sys
import types

from transformers.dynamic_module_utils import get_class_from_dynamic_module


FILES = {
    "MetisHomeConfig": "configuration_metis_home",
    "MetisHomeForConditionalGeneration": "modeling_metis_home",
    "MetisHomeModel": "modeling_metis_home",
}

package = types.ModuleType("hf_metis_home")
package.__path__ = []  # nothing else can be imported from it
package.modeling = types.ModuleType("hf_metis_home.modeling")
folder = os.environ["METIS_HOME_HUB_FOLDER"]
for name, file in FILES.items():
    setattr(package.modeling, name, get_class_from_dynamic_module(f"{file}.{name}", folder))
sys.modules |= {"hf_metis_home": package, "hf_metis_home.modeling": package.modeling}


def pytest_report_header():
    return f"models come from {package.modeling.MetisHomeModel.__module__}"
