"""What all commands share: the consoles, errors as one line, Ctrl-C."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer
from rich.console import Console

from foretell.errors import ForetellError, ParameterError

stdout = Console(soft_wrap=True, highlight=False)
stderr = Console(stderr=True, soft_wrap=True, highlight=False)


@contextmanager
def reporting(again: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """Turns errors into one clear line and an exit code: 2 for input, 3 for a failure.

    Args:
        again: how to go on after an interruption; asked then.
    """
    try:
        yield
    except ForetellError as error:
        stderr.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        resume = again()
        stderr.print("interrupted" + (f"; go on with: {resume}" if resume else ""), markup=False)
        raise typer.Exit(130) from None
    except MemoryError:
        stderr.print("error: out of memory", style="red")
        raise typer.Exit(3) from None
    except OSError as error:
        stderr.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(3) from None
    except typer.Exit:
        raise
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            _unexpected()
        stderr.print(
            "error: numba finds no writable folder for compiled code: name one in the environment "
            "variable NUMBA_CACHE_DIR",
            style="red", markup=False,
        )  # fmt: skip
        raise typer.Exit(3) from None
    except Exception:
        _unexpected()


def _unexpected() -> NoReturn:
    traceback.print_exc()
    stderr.print("error: this should not have happened; please report it", style="red")
    raise typer.Exit(3) from None


def stop(number: int, frame: FrameType | None) -> None:
    """Acts like Ctrl-C, which a shell makes its background jobs ignore."""
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def tell(line: str) -> None:
    """One line about how it goes."""
    stderr.print(line, style="dim", markup=False)


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def number(text: str, what: str) -> float:
    """A number from the command line.

    Raises:
        ParameterError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ParameterError(f"{text!r} is not {what}") from None
