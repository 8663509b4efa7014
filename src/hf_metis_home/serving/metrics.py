"""Counters in Prometheus' text format."""

from collections import Counter


HELP = {
    "requests": "Answered requests by branch and by who chose it.",
    "fallbacks": "Requests that the router could not decide, by reason.",
    "refused": "Requests that were refused, by reason.",
    "routed_prompts": "Prompts that the router read.",
    "router_batches": "Batches in which it read them.",
    "router_seconds": "Seconds that it took.",
}


class Counters:
    """Numbers that only grow, of this process since it started."""

    def __init__(self):
        self._values = Counter()

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Labels are the program's own words, never a caller's."""
        self._values[name, tuple(sorted(labels.items()))] += value

    def get(self, name: str, **labels: str) -> float:
        return self._values[name, tuple(sorted(labels.items()))]

    def text(self, pending: int) -> str:
        """
        Args:
            pending (`int`): Requests that wait for the router now.
        """
        lines = []
        values = sorted(self._values.copy().items())
        for name, help_text in HELP.items():
            metric = f"metis_home_{name}_total"
            lines += [f"# HELP {metric} {help_text}", f"# TYPE {metric} counter"]
            for (found, labels), value in values:
                if found == name:
                    inside = ",".join(f'{label}="{word}"' for label, word in labels)
                    lines.append(f"{metric}{{{inside}}} {value:g}" if inside else f"{metric} {value:g}")
        lines += ["# HELP metis_home_router_pending Requests that wait for the router."]
        lines += ["# TYPE metis_home_router_pending gauge", f"metis_home_router_pending {pending}"]
        return "\n".join(lines) + "\n"
