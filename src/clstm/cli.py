"""The command line: arguments, exit codes and messages. What the subcommands do is in `commands`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from . import __version__

DESCRIPTION = """\
Train, run and look at character models: LSTM networks that learn a text one character at a time.
Start with `clstm demo`. `clstm COMMAND --help` explains a command."""

EPILOG = """\
exit codes: 0 done; 1 an error, told in one line; 2 a command line that was not understood; 130 stopped by Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        code: int = import_module(f"clstm.commands.{options.command}").run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has enough, as `head` has: end as SIGPIPE would
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except OSError as error:
        place = f"{error.filename!r}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}")
    except (ValueError, MemoryError) as error:
        return _fail(str(error) or "the memory does not suffice")
    return code


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        "clstm", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"clstm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_demo, _add_train, _add_sample, _add_info):
        add(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = _command(
        commands,
        "demo",
        "learn Python's own help texts, then sample, save, serve and draw; about a minute and a half",
        """\
Trains a character model on the help texts that every Python ships, and measures it on a part held out. Prints a
sample, saves the model and loads it again, serves it from several threads, and draws what happens inside.""",
        "clstm demo --seconds 20 --output /tmp/demo",
    )
    demo.add_argument(
        "--output", metavar="FOLDER", default="./clstm-demo", help="where to write (default: %(default)s)"
    )
    demo.add_argument("--seconds", type=_positive, default=60.0, help="time to train (default: %(default)g)")
    demo.add_argument("--hidden", type=_count, default=256, help="hidden units (default: %(default)s)")
    demo.add_argument("--seed", type=_seed, default=0, help="of initial values and samples (default: %(default)s)")


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = _command(
        commands,
        "train",
        "train a model on a text file; Ctrl-C keeps everything, and the same command goes on",
        """\
Trains a character model on FILE. After each epoch it measures the held-out end of the text, and writes MODEL if that
loss is the lowest so far: at the end, MODEL is the best epoch, not always the last. Beside it, MODEL.checkpoint holds
the state of the run until it is over. After Ctrl-C, a crash or a power cut, the same command goes on from there and
ends with the same MODEL, byte for byte.""",
        "clstm train shakespeare.txt -o shakespeare.safetensors --layers 2 --dropout 0.2 --epochs 20",
    )
    train.usage = "clstm train FILE -o MODEL [options]"
    train.add_argument("file", metavar="FILE", help="a text in UTF-8")
    train.add_argument("-o", "--output", metavar="MODEL", required=True, help="the model file to write (safetensors)")
    model = train.add_argument_group("model")
    model.add_argument("--layers", type=_count, default=1, help="stacked LSTM layers (default: %(default)s)")
    model.add_argument("--hidden", type=_count, default=256, help="hidden units per layer (default: %(default)s)")
    model.add_argument(
        "--embedding", type=_count, default=64, help="size of a character's vector (default: %(default)s)"
    )
    model.add_argument(
        "--dropout", type=_fraction, default=0.0, help="between layers, so with 2 or more (default: %(default)g)"
    )
    training = train.add_argument_group("training")
    training.add_argument("--epochs", type=_count, default=10, help="passes through the text (default: %(default)s)")
    training.add_argument(
        "--batch-size", type=_count, default=16, help="pieces of the text read side by side (default: %(default)s)"
    )
    training.add_argument(
        "--sequence-length",
        type=_count,
        default=64,
        help="characters per step, which the gradient reaches back (default: %(default)s)",
    )
    training.add_argument("--lr", type=_positive, default=6e-3, help="highest learning rate (default: %(default)g)")
    training.add_argument(
        "--weight-decay", type=_positive_or_zero, default=0.01, help="of AdamW (default: %(default)g)"
    )
    training.add_argument(
        "--clip", type=_positive, default=1.0, help="bound on the gradient's norm (default: %(default)g)"
    )
    training.add_argument(
        "--held-out",
        type=_fraction,
        default=0.1,
        help="share of the text, at its end, to measure on (default: %(default)g)",
    )
    training.add_argument("--seed", type=_seed, default=0, help="of initial values and dropout (default: %(default)s)")
    training.add_argument(
        "--checkpoint-seconds",
        type=_positive_or_zero,
        default=60.0,
        help="at most so much work is lost if the process is killed (default: %(default)g)",
    )


def _add_sample(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sample = _command(
        commands,
        "sample",
        "let a model continue a prompt",
        """\
Prints the prompt and how the model continues it, each character as it comes. A prompt with a character that the
training text did not have is an error.""",
        'clstm sample shakespeare.safetensors --prompt "To be" --length 500 --temperature 0.7',
    )
    sample.add_argument("model", metavar="MODEL", help="from `clstm train` or `clstm demo`")
    sample.add_argument("--prompt", default="", help="text to continue (default: a new line)")
    sample.add_argument("--length", type=_count, default=400, help="characters to add (default: %(default)s)")
    sample.add_argument(
        "--temperature",
        type=_positive_or_zero,
        default=0.8,
        help="lower is more cautious; 0 always takes the likeliest character (default: %(default)g)",
    )
    sample.add_argument("--seed", type=_seed, help="makes the sample reproducible (default: another one each time)")


def _add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    info = _command(
        commands,
        "info",
        "say what a model file holds",
        "Prints architecture, number of parameters, vocabulary and how the model was trained.",
        "clstm info shakespeare.safetensors",
    )
    info.add_argument("model", metavar="MODEL", help="a model or a checkpoint")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    description: str,
    example: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _number(kind: Callable[[str], float], expected: str, accept: Callable[[float], bool]) -> Callable[[str], float]:
    """A converter of arguments to numbers that `accept` accepts."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not accept(value):
            raise argparse.ArgumentTypeError(f"{text!r}, but {expected} is expected")
        return value

    return convert


_count = _number(int, "an integer of at least 1", lambda value: value >= 1)
_seed = _number(int, "an integer from 0 to 2**63 - 1", lambda value: 0 <= value < 2**63)
_positive = _number(float, "a number above 0", lambda value: 0 < value < math.inf)
_positive_or_zero = _number(float, "a number of at least 0", lambda value: 0 <= value < math.inf)
_fraction = _number(float, "a number of at least 0 and below 1", lambda value: 0 <= value < 1)


def _fail(message: str) -> int:
    print(f"clstm: {message}", file=sys.stderr)
    return 1
