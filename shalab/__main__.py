"""python -m shalab"""

import sys

from shalab.cli import main

sys.exit(main())
