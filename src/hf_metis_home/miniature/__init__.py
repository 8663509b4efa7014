"""A real Qwen2.5-VL of about a million parameters, with its tokenizer, images and tasks: small enough for a CPU."""
