"""`detr`: the commands put together, and what becomes of an error."""

import io
import os
import signal
import sys
import time
import traceback
import warnings
from typing import Annotated, NoReturn

import typer

import detrcli
from detrcli.cli.arguments import completed
from detrcli.cli.bench import bench
from detrcli.cli.data import data_app
from detrcli.cli.demo import demo
from detrcli.cli.doctor import doctor
from detrcli.cli.eval import evaluate
from detrcli.cli.explain import explain
from detrcli.cli.export import export
from detrcli.cli.guide import guide
from detrcli.cli.match_debug import match_debug
from detrcli.cli.models import models
from detrcli.cli.options import Session
from detrcli.cli.predict import predict
from detrcli.cli.report import report
from detrcli.cli.train import train
from detrcli.cli.visualize_attn import visualize_attn
from detrcli.errors import UsageError, to_user_error
from detrcli.system.allocator import keep_large_blocks
from detrcli.system.launch import launch
from detrcli.system.text import escape_controls

PATIENCE = 2.0  # seconds in which torchrun ends the processes beside one that has failed

# Plain help screens: rich ones take twice the time and cut lines off in narrow terminals.
app = typer.Typer(
    name="detr",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("predict")(predict)
app.command("visualize-attn")(visualize_attn)
app.command("match-debug")(match_debug)
app.command("report")(report)
app.command("doctor")(doctor)
app.command("explain")(explain)
app.command("demo")(demo)
app.command("export")(export)
app.command("bench")(bench)
app.command("models")(models)
app.command("guide")(guide)
app.add_typer(data_app, name="data")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"detr {detrcli.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def detr(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """DETR, the detection transformer: train, evaluate, predict, and look inside."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    session = Session()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot write is written out
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_: f"detr: {message}\n"
    warnings.filterwarnings("ignore", module="PIL")  # odd metadata is no news to a user
    # So that what was begun is tidied up, as it is after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        arguments = completed(sys.argv[1:])
        if not {"-h", "--help"}.intersection(arguments):
            keep_large_blocks()
        code = typer.main.get_command(app)(arguments, prog_name="detr", standalone_mode=False, obj=session)
        sys.stdout.flush()
    except SystemExit as error:
        # typer leaves so when the reader of a pipe went away.
        code = _reader_left() if isinstance(error.__context__, BrokenPipeError) else error.code
    except BrokenPipeError:
        code = _reader_left()
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        code = _report(error, session)
    if launch().world_size > 1 and isinstance(code, int | None):
        # All is done and said. The threads of a process group race at exit, and now and then abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


def _report(error: BaseException, session: Session) -> int:
    """Say on stderr what went wrong, in a few lines; the exit code."""
    if session.debug:
        traceback.print_exception(error)
    if isinstance(error, typer.TyperException):
        from detrcli.cli.other_names import answer

        context = getattr(error, "ctx", None)
        command = context.command_path if context else "detr"
        code, message = (
            UsageError.exit_code,
            f"{answer(error) or error.format_message()}\n`{command} --help` shows the options.",
        )
    elif known := to_user_error(error):
        code, message = known.exit_code, str(known)
    else:
        code = 1
        message = f"A bug of ours: {type(error).__name__}: {error}\nPlease report it, with what --debug shows."
    here = launch()
    if here.rank > 0 and not getattr(error, "alone", False):
        _let_the_first_speak()
    process = f" (process {here.rank} of {here.world_size})" if here.world_size > 1 else ""
    for line in message.splitlines():
        print(f"detr{process}: {escape_controls(line)}", file=sys.stderr)
    return code


def _let_the_first_speak() -> None:
    """Most errors are met by all processes at once: torchrun ends the others as soon as the first one has left."""
    try:
        time.sleep(PATIENCE)
    except SystemExit as ended:
        os._exit(143 if ended.code is None else int(ended.code))


def _reader_left() -> int:
    # What is still buffered has nowhere to go; without this Python would complain at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
