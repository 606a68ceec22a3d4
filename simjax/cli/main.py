"""The `simjax` program: picks the command, composes its configuration, prints mistakes in one line."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from simjax.cli import interrupts
from simjax.cli.internal import internal
from simjax.disk.paths import with_folders
from simjax.engine.control.whole_loops import make_loops_whole
from simjax.errors import PoorFitError, SimjaxError, closest, is_out_of_memory
from simjax.text import printable


class Command(NamedTuple):
    """A command.

    Attributes:
        config: key of its configuration in `simjax.config.compose.SCHEMAS`.
        module: module of its `execute(config, as_yaml)`.
        arguments: the options that words without `=` set, in their order.
    """

    config: str
    module: str
    arguments: tuple[str, ...] = ()


COMMANDS: dict[tuple[str, ...], Command] = {
    ("run",): Command("run", "simjax.cli.commands.run"),
    ("pareto",): Command("pareto", "simjax.cli.commands.pareto", ("directory",)),
    ("show-point",): Command("show_point", "simjax.cli.commands.show_point", ("directory", "point")),
    ("validate",): Command("validate", "simjax.cli.commands.validate", ("measured",)),
    ("calibrate",): Command("calibrate", "simjax.cli.commands.calibrate", ("measured",)),
    ("capacity",): Command("capacity", "simjax.cli.commands.capacity"),
    ("explain",): Command("explain", "simjax.cli.commands.explain"),
    ("sensitivity",): Command("sensitivity", "simjax.cli.commands.sensitivity"),
    ("trace", "describe"): Command("describe", "simjax.cli.commands.traces.describe", ("workload.file",)),
    ("trace", "export"): Command("export", "simjax.cli.commands.traces.export", ("requests",)),
    ("handover", "fit"): Command("handover", "simjax.cli.commands.fits.handover", ("transfers",)),
    ("power", "fit"): Command("power_fit", "simjax.cli.commands.fits.power", ("log",)),
    ("profile", "fit"): Command("fit", "simjax.cli.commands.fits.profile", ("bundle",)),
    ("profile", "import"): Command("import_operators", "simjax.cli.commands.fits.import_operators", ("device",)),
}
_IN_WHOLE_LOOPS = ("run", "capacity")
_MULTIRUN = ("-m", "--multirun")
_MOST_DIGITS = 400  # no float has more
_HUGE = re.compile(rf"\d{{{_MOST_DIGITS + 1}}}")
TEMPLATE = "--template"
_HYDRAS_CFG = ("job", "hydra", "all")


def main(arguments: list[str] | None = None) -> None:
    """Entry point.

    Exits with 0; with 1 for a calibration that fits poorly; with 2 for a user's mistake; with 3 for a bug, whose traceback is in a file;
    with 130 after Ctrl-C and 143 after SIGTERM.

    Args:
        arguments: the words of the command; None for those of this program, which then handles its signals.
    """
    program = arguments is None
    try:
        if program:
            interrupts.listen()
            if sys.argv[1:2] and sys.argv[1] in _IN_WHOLE_LOOPS:
                make_loops_whole()
        _dispatch(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # a closed pipe shows here, not at exit
        if program:
            interrupts.done()
    except PoorFitError as error:
        _fail(str(error), 1)
    except SimjaxError as error:
        _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder without write permission
        _fail(f"{error.filename or 'input/output'}: {error.strerror or error}")
    except KeyboardInterrupt as error:
        _stop(error, program)
    except RecursionError:
        _fail("an option or a file is nested too deeply")
    except Exception as error:
        if interrupts.received():
            _stop(error, program)
        if is_out_of_memory(error):
            _fail("out of memory; simulate fewer requests or instances, or set a longer timeline_interval_s")
        _fail(f"{internal(error)}; please report it with the command", 3)


def _fail(message: str, code: int = 2) -> None:
    print(f"simjax: error: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)


def _stop(error: BaseException, program: bool) -> None:
    code = interrupts.report(error)
    if program:
        interrupts.leave(code)
    sys.exit(code)


def _dispatch(arguments: list[str]) -> None:
    if arguments and arguments[0] == "--version":
        from importlib.metadata import version

        print(f"simjax {version('simjax')}")
        return
    asked = any(word in ("-h", "--help") for word in arguments)
    if arguments[:1] == ["help"]:
        asked, arguments = True, arguments[1:]
    if not arguments or (asked and arguments[0].startswith("-")):
        from simjax.cli import help as help_text

        print(help_text.text(None), end="")
        return
    words = next((words for words in COMMANDS if tuple(arguments[: len(words)]) == words), None)
    if words is None and asked:  # `simjax trace --help`
        words = next((words for words in COMMANDS if words[0] == arguments[0]), None)
    if words is None:
        given = " ".join(word for word in arguments[:2] if "=" not in word and not word.startswith("-"))
        raise SimjaxError(f"unknown command '{given or arguments[0]}'; {closest(given, [' '.join(words) for words in COMMANDS])}")
    if asked:
        from simjax.cli import help as help_text

        print(help_text.text(COMMANDS[words].config), end="")
        return
    _execute(words, arguments[len(words) :])


def _execute(words: tuple[str, ...], rest: list[str]) -> None:
    command, name = COMMANDS[words], " ".join(words)
    files, rest = _taken("--config", rest)
    folders, rest = _taken("--config-dir", rest)
    template, rest = TEMPLATE in rest, [word for word in rest if word != TEMPLATE]
    if template and command.config not in ("validate", "calibrate"):
        raise SimjaxError(f"simjax {name} has no {TEMPLATE}; simjax validate FILE {TEMPLATE} writes what is to be known of a server")
    with with_folders(folders):
        _compose_and_run(command, name, rest, [Path(file).expanduser() for file in files], template)


def _taken(flag: str, rest: list[str]) -> tuple[list[str], list[str]]:
    """The values of a flag (`--flag VALUE` or `--flag=VALUE`), and all other words."""
    values, others, words = list[str](), list[str](), iter(rest)
    for word in words:
        if word == flag:
            value = next(words, None)
            if value is None or value.startswith("-"):
                raise SimjaxError(f"{flag}: give a path after it")
            values.append(value)
        elif word.startswith(f"{flag}="):
            values.append(word.partition("=")[2])
        else:
            others.append(word)
    return values, others


def _compose_and_run(command: Command, name: str, rest: list[str], files: list[Path], template: bool) -> None:
    many = any(word in _MULTIRUN for word in rest)
    if many and command.config not in ("run", "capacity"):
        raise SimjaxError(f"simjax {name} has no sweeps; -m goes with simjax run and simjax capacity")
    show_config, rest = _without_cfg(name, rest)
    overrides, free = [], list(command.arguments)
    for word in rest:
        if word in _MULTIRUN:
            continue
        if _HUGE.search(word):
            raise SimjaxError(f"{word.partition('=')[0][:100]}: a number of more than {_MOST_DIGITS} digits")
        if not _is_option(word) and not word.startswith("-") and free:
            from simjax.explore.values import format_value

            word = f"{free.pop(0)}={format_value(word)}"
        elif not _is_option(word):
            raise SimjaxError(f"'{word}' is not an option of simjax {name}; options look like key=value (simjax {name} --help lists them)")
        overrides.append(word)
    from simjax.cli.option_files import with_files
    from simjax.config.disaggregation import with_handover_files

    overrides = with_handover_files(with_files(command.config, overrides, files))

    from simjax.cli.output import logged

    with logged():
        if template:
            from simjax.cli.commands import template as of_template
            from simjax.config.compose import compose_config, typed

            of_template.execute(typed(compose_config(command.config, overrides)))
        elif many and command.config == "capacity":
            from simjax.cli.commands.capacity import with_axes

            _run(command, with_axes(overrides), show_config)
        elif many:
            from simjax.cli.multirun import multirun

            multirun(overrides, show_config)
        else:
            _run(command, overrides, show_config)


def _without_cfg(name: str, rest: list[str]) -> tuple[bool, list[str]]:
    """Whether the words ask for `--cfg` or `--cfg job`, and all others of them."""
    others: list[str] = []
    for before, word in zip(["", *rest], rest, strict=False):
        if word == "--cfg":
            continue
        if not word.startswith("--cfg=") and not (before == "--cfg" and word in _HYDRAS_CFG):
            others.append(word)
        elif (shown := word.removeprefix("--cfg=")) != "job":
            raise SimjaxError(f"--cfg {shown}: there is only --cfg (or --cfg job), which shows the configuration of simjax {name}")
    return len(others) < len(rest), others


def _run(command: Command, overrides: list[str], show_config: bool) -> None:
    from omegaconf import OmegaConf

    from simjax.config.compose import compose_config, typed
    from simjax.config.sweep import SweepConfig

    config = compose_config(command.config, overrides)
    if show_config:
        print(OmegaConf.to_yaml(config), end="")
    elif command.config == "run" and typed(config).sweep != SweepConfig():
        from simjax.cli.commands import sweep

        sweep.execute(config, overrides)
    elif command.config == "capacity":
        from simjax.cli.commands import capacity

        capacity.execute(typed(config), OmegaConf.to_yaml(config), overrides)
    else:
        importlib.import_module(command.module).execute(typed(config), OmegaConf.to_yaml(config))


def _is_option(word: str) -> bool:
    """Whether a word sets an option: `a=b.csv` does, unless a file of that name exists."""
    key, equals, _ = word.partition("=")
    return bool(equals) and ("/" not in key or key.startswith("hydra/")) and not _exists(word)


def _exists(word: str) -> bool:
    try:
        return Path(word).exists()
    except OSError:  # thousands of values are too long for a name
        return False
