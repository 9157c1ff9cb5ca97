"""`detr`: the commands, and the handling of their errors."""

import io
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

import detrcli
from detrcli.cli.console import STDERR
from detrcli.cli.data import check, fix, make, show
from detrcli.cli.demo import demo
from detrcli.cli.eval import eval_
from detrcli.cli.guide import guide
from detrcli.cli.inspect import explain, visualize_attn
from detrcli.cli.match_debug import match_debug
from detrcli.cli.models import bench, convert, export, models
from detrcli.cli.naming import complete_resume, other_name, words_of
from detrcli.cli.options import add_command
from detrcli.cli.predict import predict
from detrcli.cli.report import doctor, report
from detrcli.cli.train import train
from detrcli.errors import UsageError, to_user_error
from detrcli.system.allocator import keep_large_blocks
from detrcli.system.launch import launch
from detrcli.system.text import escape_controls

PATIENCE = 2.0  # seconds in which torchrun ends the other processes after the first has failed

# Plain help: rich takes twice the time, and cuts lines off in narrow terminals.
app = typer.Typer(
    name="detr",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(rich_markup_mode=None, help="Check, show, make and fix datasets.")
for command in (
    train, eval_, predict, visualize_attn, match_debug, report, doctor, explain, demo, export, convert, bench, models,
    guide,
):  # fmt: skip
    add_command(app, command)
for command in (check, show, make, fix):
    add_command(data_app, command)
app.add_typer(data_app, name="data")


@app.callback(invoke_without_command=True)
def detr(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """DETR, the detection transformer: train, evaluate, predict, and look inside."""
    if version:
        typer.echo(f"detr {detrcli.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and exit with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that the terminal cannot show are escaped
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_: f"detr: {message}\n"
    warnings.filterwarnings("ignore", module="PIL")  # unusual metadata of images
    # As after Ctrl-C, so that running operations clean up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = sys.argv[1:]
    root = typer.main.get_command(app)
    # The findings of `detr doctor` are about options and settings of a training.
    STDERR.wording = words_of(_command_of(root, ["train"] if arguments[:1] == ["doctor"] else arguments))
    try:
        arguments = complete_resume(arguments)
        if not {"-h", "--help"}.intersection(arguments):
            keep_large_blocks()
        code = root(arguments, prog_name="detr", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as error:
        # typer exits when the reader of a pipe has closed it.
        code = _closed_pipe() if isinstance(error.__context__, BrokenPipeError) else error.code
    except BrokenPipeError:
        code = _closed_pipe()
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        if "--debug" in arguments:
            traceback.print_exception(error)
        code = _report(error)
    if launch().world_size > 1 and isinstance(code, int | None):
        # Threads of the process group sometimes abort the process at exit, after everything is done.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


def _command_of(command: Any, arguments: Sequence[str]) -> Any:
    """Return the command that the arguments begin with."""
    for argument in arguments:
        subcommands = getattr(command, "commands", {})
        if argument not in subcommands:
            break
        command = subcommands[argument]
    return command


def _report(error: BaseException) -> int:
    """Print an error on stderr, in a few lines. Return the exit code."""
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "detr"
        code, message = UsageError.exit_code, other_name(error) or error.format_message()
        message += f"\n`{command} --help` shows the options."
    elif known := to_user_error(error):
        code, message = known.exit_code, known.text(STDERR.wording)
    else:
        code = 1
        message = f"Internal error: {type(error).__name__}: {error}\nPlease report it, with the output of --debug."
    process = launch()
    if process.rank > 0 and not getattr(error, "alone", False):
        try:  # let the first process report an error that all have: torchrun then ends the others
            time.sleep(PATIENCE)
        except SystemExit as end:
            os._exit(143 if end.code is None else int(end.code))
    name = f" (process {process.rank} of {process.world_size})" if process.world_size > 1 else ""
    for line in message.splitlines():
        print(f"detr{name}: {escape_controls(line)}", file=sys.stderr)
    return code


def _closed_pipe() -> int:
    # Buffered output has no destination; without this Python would report an error at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
