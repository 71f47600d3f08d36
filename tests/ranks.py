"""The command line as one of several processes, of which DIES=index:step kills one before a step of training."""

import os
import signal

from compress import cli
from compress.training import loop

loop.CHECKPOINT_SECONDS = 0  # every step is saved
step = loop._step


def _step(prepared, state, config, context, batches):
    if os.environ.get("DIES") == f"{context.processes.index}:{state.step}":
        os.kill(os.getpid(), signal.SIGKILL)
    return step(prepared, state, config, context, batches)


if __name__ == "__main__":
    loop._step = _step
    cli.main()
