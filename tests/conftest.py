"""What all tests share."""

import sys

from absl import logging

# optax brings absl's log handler, which keeps the stderr of its first import: pytest's. Hydra's multirun resets logging, which closes all
# handlers, and absl's closes any stream but Python's own ones.
logging.get_absl_handler().python_handler.stream = sys.__stderr__
