"""A small text in enwik8's place, for every Python with this folder on its path: $SHALAB_TEST_ENWIK8 describes it."""

import json
import os

from shalab import corpus, download

if _there := json.loads(os.environ.get("SHALAB_TEST_ENWIK8", "{}")):  # pytest, which looks for doctests, has none
    corpus.SOURCES["enwik8"] = corpus.Source(_there["n_bytes"], _there["sha256"])
    download.MIRRORS["enwik8"] = (_there["url"],)
