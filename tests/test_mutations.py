"""Broken invariants, and the test that notices each: a line of the library is changed, and that test has to fail.

`make test` tries a few of them, `make torture` all.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TORTURE

ROOT = Path(__file__).parents[1]

# invariant -> file, what stands there once, what is put there instead, the test that fails then
MUTATIONS = {
    "no byte sees the one that it predicts": (
        "batches.py", "return ids[:-1], ids[1:]", "return ids[1:], ids[1:]",
        "test_train.py::test_streams_cover_the_text_in_order",
    ),
    "a query sees nothing after itself": (
        "attention.py", ".tril(n_keys - bptt)", ".tril(n_keys - bptt + 1)",
        "test_model.py::test_attention_by_hand",
    ),
    "a part of a window has its own part of the mask": (
        "fast/attention.py", "q.device)[rows]", "q.device)[: len(q)]",
        "test_model.py::test_attention_in_parts_is_the_same",
    ),
    "the memory keeps its last rows, and none if there is no room": (
        "attention.py", "return x[max(0, len(x) - max(0, n)) :]", "return x[-n:]",
        "test_model.py::test_memory_keeps_the_last_rows",
    ),
    "memory and window together fill the context": (
        "attention.py", "last_rows(memory, max_context - len(window))", "last_rows(memory, max_context)",
        "test_golden.py::test_four_windows",
    ),
    "they do so in the trick": (
        "fast/attention.py", "last_rows(memory, max_context - len(window))", "last_rows(memory, max_context)",
        "test_golden.py::test_four_windows",
    ),
    "the trick drops what the equations drop": (
        "fast/attention.py", "drop(q, head.dropout) * (", "q * (",
        "test_fast.py::test_the_trick_drops_what_the_equations_drop",
    ),
    "what is asked of a run in its folder is done": (
        "steering.py", 'case "stop", _:', 'case "halt", _:',
        "test_follow.py::test_pause_continue_and_stop_reach_the_process",
    ),
    "a collapsed vector is the one that was trained": (
        "attention.py", "self.vector = nn.Parameter(self())", "self.vector = nn.Parameter(self.vector.sigmoid())",
        "test_model.py::test_collapse_changes_no_output",
    ),
    "the LSTM's own backward pass has the right derivatives": (
        "fast/lstm.py", "c_by_h = o * (1 - tanh_c.square())", "c_by_h = o * (1 - tanh_c)",
        "test_model.py::test_lstm_step_by_step_is_that_of_pytorch",
    ),
    "dropout keeps the mean": (
        "fast/masks.py", ".mul_(256 / (256 - threshold))", ".mul_(1.0)",
        "test_model.py::test_dropout_masks",
    ),
    "the trust ratio has a floor": (
        "optim.py", 'trust_ratio = trust_ratio.clamp(min=group["min_trust"])', "pass",
        "test_optim.py::test_updates_are_the_textbooks",
    ),
    "it has one in the trick": (
        "fast/lamb.py", 'ratio = ratio.clamp(min=group["min_trust"])', "pass",
        "test_optim.py::test_updates_are_the_textbooks",
    ),
    "a weight's norm counts as 10 at most": (
        "optim.py", ".clamp(max=10)", "",
        "test_optim.py::test_norms_of_weights_count_as_ten_at_most",
    ),
    "it does so in the trick": (
        "fast/lamb.py", ".clamp(max=10)", "",
        "test_optim.py::test_norms_of_weights_count_as_ten_at_most",
    ),
    "gelu has its factor": (
        "boom.py", "torch.sigmoid(1.702 * u)", "torch.sigmoid(u)",
        "test_golden.py::test_four_windows",
    ),
    "valid ends and test begins at 95 %": (
        "corpus.py", "n * 95 // 100", "n * 94 // 100",
        "test_corpus.py::test_enwik8_splits_as_published",
    ),
    "bits are not nats": (
        "metrics.py", "return nats / n_bytes / NATS_PER_BIT", "return nats / n_bytes",
        "test_evaluate.py::test_units",
    ),
    "dynamic evaluation leaves the model as it was": (
        "dynamic.py", "copy.deepcopy(model).eval()", "model.eval()",
        "test_evaluate.py::test_dynamic_evaluation_learns_and_leaves_the_model_alone",
    ),
    "top-p stops at the byte that reaches p": (
        "generate.py", "probabilities[before >= top_p] = 0", "probabilities[before > top_p] = 0",
        "test_evaluate.py::test_top_p_stops_where_the_sum_is_reached",
    ),
    "the drawn window lengths go on after a resume": (
        "batches.py", "self._next[1] if self._next else self.generator", "self.generator",
        "test_train.py::test_resume_is_exact",
    ),
    "the best weights are those with the lowest score": (
        "train.py", "best = bpc < self.best_bpc", "best = True",
        "test_train.py::test_the_best_weights_are_those_with_the_lowest_score",
    ),
    "what holds up an update is no training time": (
        "clock.py", "took = min(took, 10 *", "took = min(took, 10_000 *",
        "test_train.py::test_what_holds_up_an_update_is_no_training_time",
    ),
    "gradients are clipped": (
        "train.py", "nn.utils.clip_grads_with_norm_(parameters, self.config.clip, norm)", "pass",
        "test_train.py::test_learning_curve_is_the_kept_one",
    ),
    "the cool-down begins after 32 of 37 parts": (
        "schedules.py", "total_steps * 32 / 37", "total_steps * 33 / 37",
        "test_optim.py::test_schedules",
    ),
    "a checkpoint appears whole or not at all": (
        "files.py", "os.replace(part, path)", "path.write_bytes(part.read_bytes())",
        "test_run.py::test_a_checkpoint_is_renamed_into_place",
    ),
    "every second point goes, never the first": (
        "widgets/history.py", "del self.kept[1::2]", "del self.kept[::2]",
        "test_dashboard.py::test_thinned_keeps_the_first_the_last_and_every_kth",
    ),
    "a length costs what Elias' code takes": (
        "tokenization/accounts.py", "return 2.0 * n.bit_length() - 1", "return 1.0 * n.bit_length()",
        "test_tokenization.py::test_length_is_charged_by_elias_code",
    ),
}  # fmt: skip

FEW = ("a query sees nothing after itself", "a checkpoint appears whole or not at all")
TRIED = MUTATIONS if TORTURE else FEW


def test_every_mutation_has_its_place():
    for name, (file, old, new, test) in MUTATIONS.items():
        assert (ROOT / "shalab" / file).read_text(encoding="utf-8").count(old) == 1 and new != old, name
        file, _, function = test.partition("::")
        assert re.search(rf"^def {function}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.M), name


@pytest.mark.parametrize("name", TRIED)
def test_a_broken_invariant_is_noticed(name, tmp_path):
    file, old, new, test = MUTATIONS[name]
    shutil.copytree(ROOT / "shalab", tmp_path / "shalab", ignore=shutil.ignore_patterns("__pycache__"))
    for shared in ("assets", "notebooks"):
        (tmp_path / shared).symlink_to(ROOT / shared)
    target = tmp_path / "shalab" / file
    target.write_text(target.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", ROOT / "tests" / test],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and re.search(r"\d+ failed", done.stdout), done.stdout[-3000:]
