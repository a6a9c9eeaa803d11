"""What the terminal shows of a run: a bar while it trains, its scores beside compressors', what it would cost."""

import math
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from tqdm import tqdm

from shalab.background import stop_on_interrupt
from shalab.baselines import COMPRESSORS, PUBLISHED, archivers, baselines
from shalab.calibrate import here
from shalab.checkpoint import load_model
from shalab.corpus import SOURCES, Corpus, load_corpus
from shalab.device import Precision, threads
from shalab.errors import InputError
from shalab.evaluate import evaluate, warmup_bytes
from shalab.files import write_text
from shalab.follow import Follower, seconds_left
from shalab.generate import as_text, generate
from shalab.plan import CARDS, Card, plan, savings
from shalab.presets import find_preset
from shalab.run import Run
from shalab.run_config import to_resume

# From one stretch of so many bytes to the next, the trained model's bits per byte vary by 0.31 in enwik6's last 100,000
# bytes, as much as xz and PPMd differ; over 1,000 bytes they vary by 0.40.
FEW_BYTES = 10_000
SAMPLE_BYTES = 1000  # in sample.txt


def announce(run: Run) -> None:
    """Says what a run is before it trains, and about when it will be done."""
    config, trainer = run.config, run.trainer
    print(
        f"{config.preset} on {run.corpus}, {trainer.model.n_parameters:,} parameters, {run.precision}, "
        f"seed {config.seed}, {config.budget} -> {run.folder}"
    )
    if config.init_from:
        print(f"starting from the weights of {config.init_from.name}, SHA-256 {config.init_from.sha256}")
    if few := caution(run.corpus):
        print(few)
    if config.budget.minutes and not trainer.finished:
        train_s, score_s = 60 * config.budget.minutes - trainer.elapsed_s, _scoring_s(run)
        print(
            f"training takes {train_s / 60:.1f} minutes, and scoring about {score_s / 60:.1f} more: done at about "
            f"{datetime.now() + timedelta(seconds=train_s + score_s):%H:%M}, if nothing else keeps the machine busy"
        )


def caution(corpus: Corpus) -> str:
    """What to know before believing a score; empty if valid and test are long enough."""
    valid, test = (len(corpus.split(name)) for name in ("valid", "test"))
    if min(valid, test) >= FEW_BYTES:
        return ""
    return (
        f"caution: valid has only {valid:,} bytes and test {test:,}: their scores say little "
        f"(below {FEW_BYTES:,} bytes they vary by 0.3 bits per byte and more)"
    )


def show(
    folder: str | Path, lines: Iterable[dict], step: int = 0, total: int | None = None, best_bpc: float = math.inf
) -> dict:
    """Lines of a run's metrics.jsonl as a progress bar, with a sentence per evaluation; returns the last line."""
    line: dict = {}
    smooth: float | None = None
    valid = f"{best_bpc:.3f}" if best_bpc < math.inf else "-"
    # Without tqdm's own time left, which assumes the speed of the last seconds.
    bar_format = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    with tqdm(total=total, initial=step, bar_format=bar_format, disable=None) as bar:
        for line in lines:
            try:
                if line["event"] == "step":
                    bpc = line["bpc"] or math.nan
                    smooth = bpc if smooth is None else 0.95 * smooth + 0.05 * bpc
                    speed, left = line["n_bytes"] / line["elapsed_s"] / 1e3, bar.format_interval(seconds_left(line))
                    bar.total = line["total_steps"]
                    bar.update(line["step"] - bar.n)
                    state = f"train {smooth:.3f} valid {valid} bpc, {speed:.1f} kB/s, {left} left"
                    bar.set_postfix_str(state, refresh=False)
                elif line["event"] == "eval":
                    valid = f"{line['valid_bpc']:.3f}"
                    bar.write(
                        f"step {line['step']:,}: {line['n_bytes'] / 1e6:.2f} MB read in {line['elapsed_s']:.0f} s, "
                        f"train {smooth or math.nan:.3f}, valid {valid} bpc{' (best)' if line['best'] else ''}"
                    )
            except (KeyError, TypeError, ValueError, ArithmeticError) as error:
                raise InputError(f"{folder} holds a line that no run writes: {str(line)[:80]}") from error
    return line


def _scoring_s(run: Run) -> float:
    """About how long all evaluations, samples and the final scores will take, measured on a small piece of each."""
    config, model, data = run.config.train, run.trainer.model, run.corpus.data
    (begin, middle), (_, end) = run.corpus.bounds["valid"], run.corpus.bounds["test"]

    def per_byte(n: int, act) -> float:
        act()
        began = time.perf_counter()
        act()
        return (time.perf_counter() - began) / n

    def reading(n_streams: int) -> float:
        n = min(1024 * n_streams, middle - begin)
        streams = min(n, n_streams)
        return per_byte(n, lambda: evaluate(model, data, begin, begin + n, run.precision, n_streams=streams, context=0))

    writing = per_byte(20, lambda: list(generate(model, b"\n", 20, run.precision)))
    valid = min(middle - begin, config.valid_bytes or middle) + 2 * config.batch_size * model.max_context
    evaluation = reading(config.batch_size) * valid + writing * (100 + config.sample_bytes)
    left = config.evaluations - run.trainer.scored
    return left * evaluation + reading(1) * (end - begin + 2 * warmup_bytes(model)) + writing * SAMPLE_BYTES


def watch(folder: str) -> None:
    """Shows a run that another process trains, to its end. Ctrl-C ends the watching, not the training."""
    follower = Follower(folder)
    if follower.process:
        process, machine = follower.process
        print(f"{folder}: process {process} on {machine}; Ctrl-C ends the watching, --stop the training")
    with stop_on_interrupt(follower.stop):
        line = show(folder, follower.events())
    if line.get("reason") == "stopped":
        print(f"stopped at step {line['step']:,}; go on with: {to_resume(folder)}")
    if follower.finished:
        scores = follower.result()
        print(f"finished: valid {scores['valid_bpc']:.3f}, test {scores['test_bpc']:.3f} bits per byte")


def report(run: Run, result: dict) -> None:
    """Prints the table; writes curve.png and sample.txt."""
    from shalab import plots  # matplotlib takes a second to import; only here it is needed

    seen = "; ".join(f"{name}: {compressor.seen}" for name, compressor in COMPRESSORS.items())
    print(f"comparing with compressors, given as much of the bytes before as they can use ({seen}) ...", flush=True)
    rivals = baselines(run.corpus.data, run.corpus.bounds) | archivers(run.corpus)
    own = {f"this model, {result['n_parameters']:,} parameters": (result["valid_bpc"], result["test_bpc"])}
    lines = [f"{'bits per byte':<56}{'valid':>9}{'test':>9}"]
    digits = {name: 2 for name, compressor in COMPRESSORS.items() if compressor.blocks}  # its cut moves the third
    for name, scores in sorted((rivals | own).items(), key=lambda row: -row[1][1]):
        lines.append(f"{name:<56}" + "".join(f"{score:>9.{digits.get(name, 3)}f}" for score in scores))
    lines += ["a compressor keeps learning while it is tested; this model does so with `shalab eval RUN --dynamic`"]
    lines += ["full-size results on enwik8, as published"]
    lines += [f"{f'{name}, {size}':<56}{'':>9}{test:>9.3f}" for name, test, size in PUBLISHED]
    print("\n".join(lines))
    reference = {name: rivals[name][0] for name in ["xz -9e"] if name in rivals}
    plots.save(plots.learning_curve(run.metrics(), reference), run.folder / "curve.png")
    model = run.precision.place(load_model(run.folder))
    prompt = run.corpus.split("train")[-100:].tobytes()
    stream = generate(model, prompt, SAMPLE_BYTES, run.precision, seed=result["seed"])
    write_text(run.folder / "sample.txt", "".join(as_text(stream)))
    print(f"{run.folder}: result.json, curve.png, sample.txt, metrics.jsonl, checkpoint.pt")


def show_plan(name: str, data: str, card: list[float] | None = None) -> None:
    """Prints what a preset's run on `data` costs here and on CARDS, or on a card of these figures."""
    preset, precision = find_preset(name), Precision.pick()
    n_bytes = SOURCES[data].n_bytes if data in SOURCES else len(load_corpus(data))
    n_train = n_bytes * 90 // 100
    rows = plan(preset, n_train, {"your card": Card(*card)} if card else CARDS)
    minutes = preset.budget.minutes
    print(f"{name} on {data}, {preset.budget}: {rows[0].tflop_per_update:.3g} TFLOP per update")
    print(f"{'':<12}{'memory':>10}{'needed':>10}{'speed':>13}{'whole run':>15}{'energy':>13}", end="")
    print(f"{'read':>12}{'passes':>9}" if minutes else "", flush=True)
    own = here(preset, n_train, precision)
    for row in (replace(own, card="this machine"), *rows):
        memory = "?" if row.memory_gb is None else f"{row.memory_gb:.0f}"
        speed = f"{row.kb_per_s:,.0f}" if row.kb_per_s >= 10 else f"{row.kb_per_s:.2g}".replace("nan", "?")
        took = f"{row.hours:,.1f} h" if row.hours >= 1 else f"{60 * row.hours:.1f} min"
        energy = "?" if row.kwh is None else f"{row.kwh:,.2f} kWh" if row.kwh >= 0.1 else f"{1e3 * row.kwh:.1f} Wh"
        read = f"{row.n_bytes / 1e6:>9,.1f} MB{row.n_bytes / n_train:>9,.1f}" if row.n_bytes else ""
        rest = f"{took:>15}{energy:>13}{read}" if row.fits else f"{'does not fit':>15}"
        print(f"{row.card:<12}{memory:>7} GB{row.peak_gb:>7.1f} GB{speed:>8} kB/s{rest}")
    print(
        f"this machine: {own.card}, {threads()}, its speed measured on shortened updates. All else comes from "
        "formulas, without the evaluations."
    )
    print(
        "Energy: a card by its board power, without the computer around it; this machine by an assumed "
        f"{precision.watts:g} W."
    )
    for option, gb in savings(preset.model, preset.train).items():
        print(f"{option} would save {gb:.1f} GB on a card")
