"""diffusers and transformers without their bars and advice, which this package gives in its own words."""

import contextlib
from collections.abc import Iterator
from typing import Any

import diffusers


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """transformers, which only what has texts brings; it and diffusers say nothing meanwhile."""
    import transformers

    kept = []
    for library in (diffusers, transformers):
        logging = library.utils.logging
        kept.append((logging, logging.get_verbosity(), logging.is_progress_bar_enabled()))
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        for logging, level, bars in kept:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
