"""The command: ``main`` finds the verb, and turns a failure into one message.

What is not needed for ``vgp --help`` is imported where it is needed, so that help is fast.
"""

import os
import sys
from collections.abc import Sequence

from vgp_lightning.cli.failures import Failure, fail
from vgp_lightning.cli.verbs import VERBS


def main(args: Sequence[str] | None = None) -> None:
    """Run a verb.

    Args:
        args: Verb and options; default: the process's.

    Raises:
        SystemExit: With 2 and one message if the user can cure what is wrong, with 130 after Ctrl-C. With
            ``VGP_TRACEBACK=1`` the exception itself is raised.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    verb, *rest = arguments or ["--help"]
    verb = verb if verb in VERBS else verb.replace("_", "-")
    try:
        if os.environ.get("VGP_TRACEBACK"):
            _run(verb, rest)
        else:
            _run_explained(verb, rest)
    except Failure as failure:
        print(f"vgp: {failure.message}", file=sys.stderr)
        raise SystemExit(failure.code) from None


def _run_explained(verb: str, args: list[str]) -> None:
    """Run a verb; where it fails by what a user can cure, say so in one message."""
    try:
        _run(verb, args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        kept = f": {VERBS[verb].kept}" if verb in VERBS else ""
        fail(f"interrupted{kept}", 130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise SystemExit(141) from None  # as SIGPIPE ends a process
        from vgp_lightning.cli.explanations import explain, mark_as_bug

        message = explain(error)
        if message is None:
            mark_as_bug(error)
            raise
        fail(message)


def _nobody_reads() -> bool:
    """Return whether the reader of the output has seen enough, as `head` has; if so, discard the rest of it."""
    import select

    poll = select.poll()
    poll.register(sys.stdout, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter flushes it once more
    return True


def _run(verb: str, args: list[str]) -> None:
    """Print what is asked about the command, or call what the verb names."""
    if verb in ("-h", "--help"):
        from vgp_lightning.cli.manual import overview

        print(overview({name: entry.what for name, entry in VERBS.items()}))
    elif verb == "--version":
        from vgp_lightning.cli.manual import versions

        print(versions())
    elif verb.partition("=")[0] in ("--print-completion", "--print_completion"):
        from vgp_lightning.cli.completion import complete

        print(complete(verb.partition("=")[2] or (args[0] if args else "")))
    elif verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        guess = f". Did you mean {near[0]}?" if near else ""
        fail(f"unknown verb {verb!r}: choose from {', '.join(VERBS)}{guess}")
    else:
        from vgp_lightning.cli.calling import call_verb

        call_verb(verb, args)
