"""The command line: what it prints, its exit codes, interruption, and the demo."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import clstm
from clstm import cli
from clstm.charmodel import CharacterModel
from clstm.commands import demo
from clstm.trainer import Trainer

COMMANDS = ("demo", "train", "sample", "info")
TEXT = "to be, or not to be: that is the question.\n" * 30
SMALL = shlex.split("--hidden 12 --embedding 6 --batch-size 4 --sequence-length 20 --epochs 3 --layers 2 --dropout 0.3")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current directory with text.txt in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


@pytest.fixture
def model(folder):
    """The path of a model, in the current directory."""
    assert cli.main(["train", "text.txt", "-o", "model.safetensors", *SMALL]) == 0
    return "model.safetensors"


def train(output="model.safetensors"):
    return cli.main(["train", "text.txt", "-o", output, *SMALL])


def python(code, **options):
    """Run Python code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, **options)


# ---- help ----


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_in_each_help_is_understood(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    example = re.search(r"example:\n  clstm (.*)", capsys.readouterr().out).group(1)
    assert cli.make_parser().parse_args(shlex.split(example)).command == command


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^ +{command} ", text, re.MULTILINE) for command in COMMANDS)


def test_it_runs_as_a_module():
    result = subprocess.run([sys.executable, "-m", "clstm", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == f"clstm {clstm.__version__}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "required: COMMAND"),
        ("train text.txt", "required: -o/--output"),
        ("train text.txt -o m --hidden 0", "'0', but an integer of at least 1"),
        ("train text.txt -o m --epochs 1.5", "'1.5', but an integer of at least 1"),
        ("train text.txt -o m --lr nan", "'nan', but a number above 0"),
        ("train text.txt -o m --dropout 1", "'1', but a number of at least 0 and below 1"),
        ("sample m --temperature -1", "'-1', but a number of at least 0"),
        ("sample m --seed -1", "'-1', but an integer from 0 to 2**63 - 1"),
    ],
)
def test_a_wrong_command_line_is_code_2(line, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(line.split())
    assert message in capsys.readouterr().err


# ---- train, sample, info ----


def test_train_writes_the_best_epoch_and_no_checkpoint_stays(folder, capsys):
    assert train() == 0
    out = capsys.readouterr().out
    bits = [float(found) for found in re.findall(r"epoch +\d of 3: .* ([\d.]+) held out", out)]
    assert len(bits) == 3
    best = bits.index(min(bits)) + 1
    assert f"model.safetensors is the model after epoch {best}: {min(bits):.3f} bits" in out
    model = CharacterModel.load("model.safetensors")
    held_out = model.vocabulary.encode(TEXT)[-round(len(TEXT) * 0.1) :]
    assert model.bits_per_character(held_out) == pytest.approx(min(bits), abs=5e-4)
    assert sorted(os.listdir(folder)) == ["model.safetensors", "text.txt"]


def test_a_later_epoch_that_is_worse_does_not_replace_the_model(folder, monkeypatch, capsys):
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(CharacterModel, "bits_per_character", lambda self, ids: next(losses))
    models = []
    save = Trainer.save_model
    monkeypatch.setattr(Trainer, "save_model", lambda self, path: models.append(self.steps) or save(self, path))
    assert train() == 0
    assert len(models) == 2
    assert "after epoch 2: 1.000 bits" in capsys.readouterr().out


def test_sample_prints_the_prompt_and_as_many_characters(model, capsys):
    def sample(*more):
        capsys.readouterr()
        assert cli.main(["sample", model, "--prompt", "to be", "--length", "30", *more]) == 0
        return capsys.readouterr().out

    first = sample("--seed", "1")
    assert first.startswith("to be")
    assert len(first) == len("to be") + 30 + 1
    assert first == sample("--seed", "1") != sample("--seed", "2")
    assert len({sample("--temperature", "0") for _ in range(2)}) == 1


def test_sample_without_a_prompt_starts_a_line(model, capsys):
    capsys.readouterr()
    assert cli.main(["sample", model, "--length", "10"]) == 0
    assert len(capsys.readouterr().out) == 10 + 1


def test_info_says_what_the_model_is(model, capsys):
    capsys.readouterr()
    assert cli.main(["info", model]) == 0
    out = capsys.readouterr().out
    loaded = CharacterModel.load(model)
    for expected in (
        "hidden_size=12",
        f"parameters  {loaded.network.num_parameters:,}",
        f"vocabulary  {len(loaded.vocabulary)} characters: {loaded.vocabulary.characters!r}",
        "epochs 3",
        "dropout 0.3",
        "held out bits",
    ):
        assert expected in out


# ---- interruption ----


def interrupt_at(monkeypatch, steps, number):
    """Send a signal to this process in the middle of a training step."""
    step = Trainer.step

    def interrupted(self, lr):
        if self.steps == steps:
            signal.raise_signal(number)
        return step(self, lr)

    monkeypatch.setattr(Trainer, "step", interrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_to_the_same_bytes(folder, monkeypatch, capsys, number):
    assert train("whole.safetensors") == 0
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 20, number)
        assert train() == 128 + number
    assert signal.getsignal(number) == handler
    assert "Stopped after 21 of 45 steps" in capsys.readouterr().out
    assert train() == 0
    assert "Going on from model.safetensors.checkpoint, after 21 of 45 steps" in capsys.readouterr().out
    assert (folder / "model.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()


KILLED = """
import os, signal
from clstm import cli
from clstm.trainer import Trainer
step = Trainer.step
def killed(self, lr):
    if self.steps == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, lr)
Trainer.step = killed
cli.main({arguments})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
@pytest.mark.parametrize(("interval", "steps"), [("0", 20), ("1000", 15)])  # each step; at the end of each epoch
def test_a_killed_run_goes_on_from_the_last_checkpoint(folder, capsys, interval, steps):
    arguments = ["train", "text.txt", "-o", "model.safetensors", *SMALL, "--checkpoint-seconds", interval]
    assert train("whole.safetensors") == 0
    assert python(KILLED.format(arguments=arguments)).returncode == -signal.SIGKILL
    capsys.readouterr()
    assert cli.main(arguments) == 0
    assert f"after {steps} of 45 steps" in capsys.readouterr().out
    assert (folder / "model.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()


def test_ctrl_c_elsewhere_is_code_130_without_traceback(model, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(CharacterModel, "sample", interrupted)
    assert cli.main(["sample", model]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_checkpoint_of_other_settings_is_refused(folder, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 20, signal.SIGINT)
        train()
    capsys.readouterr()
    assert cli.main(["train", "text.txt", "-o", "model.safetensors", *SMALL, "--hidden", "13"]) == 1
    assert "hidden 12 there, 13 here" in capsys.readouterr().err


def test_info_describes_any_module(tmp_path, capsys):
    lstm = clstm.LSTM(3, 4)
    lstm.save(tmp_path / "lstm")
    assert cli.main(["info", str(tmp_path / "lstm")]) == 0
    assert capsys.readouterr().out == f"{lstm!r}\nparameters  {lstm.num_parameters:,}\n"


def test_info_prints_nothing_that_a_terminal_obeys(model, tmp_path, capsys):
    CharacterModel.load(model).save(tmp_path / "model", {"note\x1b]0;": "\x1b[31mred\a"})
    capsys.readouterr()
    assert cli.main(["info", str(tmp_path / "model")]) == 0
    out = capsys.readouterr().out
    assert r"note\x1b]0;  \x1b[31mred\x07" in out
    assert "\x1b" not in out


def test_sampling_from_a_model_that_has_diverged_is_an_error(model, tmp_path, capsys):
    broken = CharacterModel.load(model)
    broken.linear.weight[:] = np.nan
    broken.save(tmp_path / "model")
    assert cli.main(["sample", str(tmp_path / "model"), "--prompt", "a"]) == 1
    assert "diverged" in capsys.readouterr().err


# ---- errors ----


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train missing.txt -o m", "'missing.txt': No such file or directory"),
        ("train . -o m", "'.': Is a directory"),
        ("train binary.txt -o m", "'binary.txt' is not a UTF-8 text: it has the byte 0xff at position 3"),
        ("train empty.txt -o m", "the text has 0 characters"),
        ("train text.txt -o m --batch-size 500", "batch size 500 x (sequence length 64 + 1) needs 32,500"),
        ("train text.txt -o m --dropout 0.5", "--layers 2 or more"),
        (
            "train text.txt -o nowhere/m --batch-size 4",
            "'nowhere/m.checkpoint': the file was not saved: No such file or directory",
        ),
        ("train text.txt -o binary.txt --batch-size 4", "'binary.txt': there is a model already"),
        ("sample missing", "'missing': No such file or directory"),
        ("sample text.txt", "'text.txt' is not a valid safetensors file"),
        ("info text.txt", "'text.txt' is not a valid safetensors file"),
        ("demo --output text.txt", "'text.txt': File exists"),
    ],
)
def test_an_error_is_code_1_and_one_line(folder, line, message, capsys):
    (folder / "binary.txt").write_bytes(b"abc\xff")
    (folder / "empty.txt").write_bytes(b"")
    before = sorted(os.listdir(folder))
    assert cli.main(line.split()) == 1
    error = capsys.readouterr().err
    assert message in error
    assert re.fullmatch(r"clstm: .+\n", error)
    assert sorted(os.listdir(folder)) == before


def test_an_unknown_character_in_the_prompt_is_an_error(model, capsys):
    assert cli.main(["sample", model, "--prompt", "to 7"]) == 1
    assert "the character '7' at position 3 is not among" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_nothing_stays(folder):
    resource = pytest.importorskip("resource", reason="this system cannot limit the size of files")
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, {resource.RLIM_INFINITY})); "
        f"from clstm import cli; sys.exit(cli.main({['train', 'text.txt', '-o', 'm', *SMALL]}))"
    )
    result = python(code)
    assert result.returncode == 1
    assert re.fullmatch(r"clstm: 'm.checkpoint': the file was not saved: .+\n", result.stderr)
    assert os.listdir(folder) == ["text.txt"]


WAITING = """
import sys
from clstm import cli
from clstm.charmodel import CharacterModel
def sample(self, prompt, **_):
    yield "x"
    sys.stdin.read()  # until the reader, who has seen the first character, lets it go on
    yield "y"
CharacterModel.sample = sample
cli.main(["sample", "model.safetensors"])
"""


def test_each_character_comes_at_once(model):
    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        assert process.stdout.read(1) == b"x"
        process.stdin.close()
        assert process.stdout.read().split() == [b"y"]
        watchdog.cancel()


def test_a_reader_that_has_enough_is_told_nothing(model):
    command = [sys.executable, "-m", "clstm", "sample", model, "--length", "100000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert len(process.stdout.read(20)) == 20  # they come before the sample is over
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


# ---- demo ----


@pytest.fixture
def short_demo(folder, monkeypatch):
    """Runs the demo with a small model, in the current directory; returns the exit code."""
    monkeypatch.setattr(demo, "SERVING_SECONDS", 0.01)
    monkeypatch.setattr(demo, "REACH", 10)
    text = demo.python_help()[:20_000]
    monkeypatch.setattr(demo, "python_help", lambda: text)
    return lambda: cli.main(["demo", "--seconds", "0.3", "--hidden", "8"])


def test_the_demo_does_all_it_says(short_demo, folder, capsys):
    assert short_demo() == 0
    out = capsys.readouterr().out
    for expected in (
        r"Held-out loss: [\d.]+ bits per character",
        r"counting pairs [\d.]+",
        "    The ",
        r"the outputs agree in every bit",
        r"  1 thread: [\d,]+ sequences/s",
        r"  \d+ threads: [\d,]+ sequences/s, [\d.]+ times as many, the same bytes",
    ):
        assert re.search(expected, out), expected
    written = sorted(os.listdir(folder / "clstm-demo"))
    assert written == ["gates.png", "gradient.png", "loss.png", "model.safetensors"]
    assert all((folder / "clstm-demo" / name).read_bytes()[:4] == b"\x89PNG" for name in written if "png" in name)
    assert cli.main(["sample", "clstm-demo/model.safetensors", "--length", "5"]) == 0


def test_the_demo_does_without_the_extra(short_demo, folder, monkeypatch, capsys):
    for name in ("matplotlib", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)
    assert short_demo() == 0
    out = capsys.readouterr().out
    assert "There is no progress bar, as tqdm is missing: pip install '.[cli]'" in out
    assert "There are no pictures, as matplotlib is missing: pip install '.[cli]'" in out
    assert os.listdir(folder / "clstm-demo") == ["model.safetensors"]


def test_the_demo_holds_out_no_paragraph_that_it_learns_from():
    paragraphs = demo.python_help().split("\n\n")
    assert len(paragraphs) == len(set(paragraphs)) > 1000


def test_the_demo_notices_a_model_that_came_back_different(model):
    first, second = CharacterModel.load(model), CharacterModel.load(model)
    ids = first.vocabulary.encode(TEXT)
    demo.check_same(first, second, ids)
    second.linear.bias[0] += 1e-6
    with pytest.raises(ValueError, match="differs"):
        demo.check_same(first, second, ids)


def test_the_learning_rate_of_the_demo_follows_the_clock(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(demo.time, "monotonic", lambda: next(clock))
    text = TEXT * 20
    trainer = Trainer(text, demo.Settings(hidden=4, embedding=2, batch_size=2, sequence_length=5))
    rates = []
    step = trainer.step
    monkeypatch.setattr(trainer, "step", lambda lr: rates.append(lr) or step(lr))
    curves = demo.train(trainer, 300)
    assert rates[0] < rates[len(rates) // 10] > rates[len(rates) // 2] > rates[-1]
    assert rates[-1] < 0.05 * max(rates)
    assert curves.characters[-1] == len(rates) * 10
    assert len(curves.held_out) > 1
