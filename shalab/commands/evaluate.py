"""shalab eval: what bytes cost."""

import math
from pathlib import Path

from shalab.checkpoint import best_model, load_checkpoint
from shalab.commands import Command, add_machine, add_trained, prepared
from shalab.corpus import SPLITS, corpus_of_run, load_corpus
from shalab.device import Precision
from shalab.errors import InputError
from shalab.evaluate import evaluate


def define(command: Command) -> None:
    scoring = command("eval", eval_command, "score a split or a file, in bits per byte")
    add_trained(scoring)
    add_machine(scoring)
    add = scoring.add_argument
    add("--data", metavar="NAME_OR_PATH", help="corpus, file, folder, or - (default: what it was trained on)")
    add("--split", choices=(*SPLITS, "all"), default="test", help="what to score (default: test)")
    add("--window", type=int, default=1024, metavar="T", help="bytes per step (default: 1024)")
    before = "bytes to read before what is scored (default: 16384, or twice the memory)"
    add("--context", type=int, metavar="N", help=before)
    add("--streams", type=int, default=1, metavar="S", help="read it in S pieces side by side (default: 1)")
    add("--dynamic", action="store_true", help="learn from each byte after it is charged; valid is read before test")
    add("--mix", action="store_true", help="mix with counts of long contexts in all the text before; in one stream")


def eval_command(options) -> None:
    precision = Precision.pick(options.device, options.dtype)
    content = load_checkpoint(options.run)
    model = prepared(best_model(content, options.run), options, precision)
    if options.data:
        corpus = load_corpus(options.data)
    else:  # not other bytes, whose test split could contain some that it has learned
        run = Path(options.run)
        folder = run if run.is_dir() else run.parent
        corpus = corpus_of_run(content["config"]["data"], content["config"]["data_sha256"], folder)
    begin, end = corpus.bounds[options.split] if options.split != "all" else (0, len(corpus))
    splits, how = [options.split], f" over {end - begin:,} bytes"
    reading = {"window": options.window, "context": options.context}
    if (options.dynamic or options.mix) and options.streams != 1:
        raise InputError("--dynamic and --mix read in one stream: leave out --streams")
    if options.dynamic:
        from shalab.dynamic import dynamic_evaluate

        if options.split not in ("valid", "test") or options.mix:
            raise InputError("--dynamic reads valid, or valid and then test, and does not go with --mix")
        splits = ["valid"] if options.split == "valid" else ["valid", "test"]
        bounds = [corpus.bounds["valid"][0], *(corpus.bounds[split][1] for split in splits)]
        scores = dynamic_evaluate(model, corpus.data, bounds, precision, context=options.context)
        how = ", learning while reading"
    elif options.mix:
        from shalab.mixing import PARTS, mixed_evaluate

        score, parts = mixed_evaluate(model, corpus.data, begin, end, precision, **reading)
        scores = [score]
        how += "; " + ", ".join(f"{part} alone {bpc:.3f}" for part, bpc in zip(PARTS, parts, strict=True))
    else:
        scores = [evaluate(model, corpus.data, begin, end, precision, n_streams=options.streams, **reading)]
    if not all(map(math.isfinite, scores)):
        raise InputError(f"the weights of {options.run} give no finite score")
    for split, bpc in zip(splits, scores, strict=True):
        print(f"{corpus.name} {split}: {bpc:.6f} bits per byte{how}")
