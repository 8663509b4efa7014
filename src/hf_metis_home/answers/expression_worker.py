"""
Compares mathematical expressions with math-verify, in a process that `expressions.py` starts and kills if it hangs.

Reads `[answer, solution]` as a line of JSON and writes `1` or `0`. Imports nothing from this package.
"""

import contextlib
import json
import logging
import os
import sys
from dataclasses import replace


SECONDS = 2  # per parse and per comparison; math-verify's own alarm, which works in the main thread of this process
MEMORY = 4 * 2**30  # bytes of address space


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of a library must not look like a reply
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable()
    # Its removal of units mistakes variables for units: `x + m` and `x + c` would both become `x +`.
    normalization = replace(LatexExtractionConfig().normalization_config, units=False)
    extraction = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=normalization)]

    def expressions(text: str) -> list:
        found = parse(f"${text}$", extraction_config=extraction, parsing_timeout=SECONDS)
        return [expression for expression in found if not isinstance(expression, str)]

    def equal(answer: str, solution: str) -> bool:
        try:
            return verify(expressions(solution), expressions(answer), timeout_seconds=SECONDS)
        except KeyboardInterrupt:
            raise
        except BaseException:  # such as math-verify's timeout: the two were not shown to be equal
            return False

    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        print(int(equal(*json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
