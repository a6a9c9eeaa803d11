"""A small text in enwik8's place, for every Python with this folder on its path: $SHALAB_TEST_ENWIK8 describes it."""

import json
import os

from shalab import corpus

_there = json.loads(os.environ["SHALAB_TEST_ENWIK8"])
corpus.SOURCES["enwik8"] = corpus.Source(_there["n_bytes"], _there["sha256"], (_there["url"],))
