"""shalab generate: text, byte by byte."""

import sys
from pathlib import Path

from shalab.checkpoint import load_model
from shalab.commands import Command, add_machine, add_trained, prepared
from shalab.corpus import STDIN, standard_input
from shalab.device import Precision
from shalab.files import reading
from shalab.generate import as_text, generate


def define(command: Command) -> None:
    text = command("generate", generate_command, "continue a prompt")
    add_trained(text)
    add_machine(text)
    add = text.add_mutually_exclusive_group().add_argument
    add("--prompt", default="\n", help="text to continue (default: a new line)")
    add("--prompt-file", metavar="FILE", help="file whose bytes are continued, text or not; - for standard input")
    add = text.add_argument
    add("--raw", action="store_true", help="write only the new bytes, as they are")
    add("--bytes", type=int, default=500, metavar="N", help="bytes to write (default: 500)")
    add("--temperature", type=float, default=0.8, metavar="X", help="0 takes the likeliest byte (default: 0.8)")
    add("--top-k", type=int, default=0, metavar="K", help="choose among the K likeliest bytes (default: all)")
    add("--top-p", type=float, default=1.0, metavar="P", help="choose among the likeliest that sum to P (default: 1)")
    add("--seed", type=int, default=0, metavar="S", help="random seed (default: 0)")


def generate_command(options) -> None:
    precision = Precision.pick(options.device, options.dtype)
    model = prepared(load_model(options.run), options, precision)
    if options.prompt_file is None:
        prompt = options.prompt.encode("utf-8", "surrogateescape")
    elif options.prompt_file == STDIN:
        prompt = b"".join(standard_input())
    else:
        with reading(options.prompt_file):
            prompt = Path(options.prompt_file).read_bytes()
    sampling = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "seed")}
    stream = generate(model, prompt, options.bytes, precision, **sampling)
    if options.raw:
        for byte in stream:
            sys.stdout.buffer.write(bytes([byte]))
            sys.stdout.buffer.flush()
        return
    if hasattr(sys.stdout, "reconfigure") and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")  # as sample.txt, whatever the machine's own encoding is
    sys.stdout.write(prompt.decode("utf-8", "replace"))
    for piece in as_text(stream):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
