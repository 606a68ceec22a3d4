"""The text that `--help` prints: the options from the schema of the command, the choices from the code, the rest from `pages`."""

from __future__ import annotations

from simjax.cli.help.pages import MAIN, PAGES


def text(command: str | None) -> str:
    """The help of a command (a key of `simjax.config.compose.SCHEMAS`), or of the program."""
    if command is None:
        width = max(len(page.name) for page in PAGES.values()) + 3
        commands = [f"  {page.name:<{width}}{page.title}" for page in PAGES.values()]
        return MAIN.format(commands="\n".join(commands))
    from simjax.cli.help.listing import blocks

    page = PAGES[command]
    parts = [f"simjax {page.name}: {page.title}", page.usage.strip("\n"), *blocks(command, page.common), page.notes.strip("\n")]
    return "\n\n".join(part for part in parts if part) + "\n"
