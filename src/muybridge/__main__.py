"""`python -m muybridge` is the command `muybridge`: torch.distributed.run needs a module to start."""

import sys

from muybridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
