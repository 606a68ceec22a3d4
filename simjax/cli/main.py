"""The `simjax` command: picks the command, composes its configuration, prints mistakes in one line."""

from __future__ import annotations

import importlib
import os
import sys

from simjax.cli import help as help_text
from simjax.errors import SimjaxError, closest

# Words on the command line -> (configuration, module with `execute(config)`).
COMMANDS: dict[tuple[str, ...], tuple[str, str]] = {
    ("run",): ("run", "simjax.cli.run"),
    ("validate",): ("validate", "simjax.cli.validate"),
    ("trace", "describe"): ("describe", "simjax.cli.describe"),
    ("profile", "fit"): ("fit", "simjax.cli.fit"),
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point; exits with 0, with 2 for a user's mistake, with 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _dispatch(arguments)
    except SimjaxError as error:
        print(f"simjax: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("simjax: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text.text(None), end="")
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"simjax {version('simjax')}")
        return
    words = next((words for words in COMMANDS if tuple(arguments[: len(words)]) == words), None)
    if words is None:
        given = " ".join(word for word in arguments[:2] if "=" not in word and not word.startswith("-"))
        raise SimjaxError(f"unknown command '{given or arguments[0]}'; {closest(given, [' '.join(words) for words in COMMANDS])}")
    name, module = COMMANDS[words]
    rest = arguments[len(words) :]
    if any(flag in rest for flag in ("-h", "--help")):
        print(help_text.text(name), end="")
        return
    if any(flag in rest for flag in ("-m", "--multirun")):
        raise SimjaxError("sweeps over several points (-m) do not exist yet; run one point at a time")
    show_config = "--cfg" in rest
    rest = [word for word in rest if word not in ("--cfg", "job")]
    if name == "describe" and rest and not rest[0].startswith("-") and not rest[0].startswith(("workload.", "out=")):
        rest = [f"workload.file='{rest[0]}'", *rest[1:]]

    from omegaconf import OmegaConf

    from simjax.config.compose import compose_config, typed

    config = compose_config(name, rest)
    if show_config:
        print(OmegaConf.to_yaml(config), end="")
        return
    importlib.import_module(module).execute(typed(config), OmegaConf.to_yaml(config))
