"""The `simjax` command, also as `python -m simjax`."""

import signal

# Until `simjax.cli.interrupts` listens, nothing has begun that would need cleaning up, and Python would print a traceback of its imports.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from simjax.cli.main import main

if __name__ == "__main__":
    main()
