"""
Load a folder the way someone without hf_metis_home would: `python -I load_isolated.py FOLDER`.

No weights are read: the model is created on the meta device, and its tensor names are compared with those in the files.
Prints one line of JSON.
"""

import json
import sys


class Refuse:
    """Blocks imports of the package, wherever it is installed."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_metis_home":
            raise ImportError("hf_metis_home is not installed where the folder is loaded")


def main(folder: str) -> dict:
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    auto = AutoModel if config.architectures == ["MetisHomeModel"] else AutoModelForImageTextToText
    model, info = auto.from_pretrained(folder, trust_remote_code=True, device_map="meta", output_loading_info=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    processor.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False, add_generation_prompt=True)
    names = ("missing_keys", "unexpected_keys", "mismatched_keys")
    return {
        "model": type(model).__name__,
        "from": type(model).__module__.split(".")[0],
        "processor": type(processor).__name__,
        "wrong": {name: sorted(map(str, info[name])) for name in names if info[name]},
    }


if __name__ == "__main__":
    sys.meta_path.insert(0, Refuse())
    print(json.dumps(main(sys.argv[1])))
