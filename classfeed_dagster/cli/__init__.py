"""The command line, one file a group of commands; ``app`` is the entry point."""

import os
import sys

# A caller may close a stream (`>&-`). Its place is taken before another file gets its number.
for _name in ("stdout", "stderr"):
    if getattr(sys, _name) is None:
        setattr(sys, _name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
