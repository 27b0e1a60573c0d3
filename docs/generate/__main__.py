"""`python docs/generate DIR` writes the reference pages into DIR."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from generate import write

if __name__ == "__main__":
    print(*write(Path(sys.argv[1])), sep="\n")
