"""`python -m l2a_transfer` is `l2a-transfer`."""

from __future__ import annotations

import sys


def run() -> None:
    """The command line; Ctrl-C while it is loaded ends in one line too."""
    try:
        from l2a_transfer.threads import prepare_threads

        prepare_threads()  # first, because whatever loads torch or scikit-learn fixes what it finds
        from l2a_transfer.cli.main import main
    except KeyboardInterrupt:
        from l2a_transfer.cli.output import echo

        echo("Interrupted before it finished; run it again.", err=True)
        sys.exit(130)
    main(prog_name="l2a-transfer")


if __name__ == "__main__":  # processes that are spawned import this module again
    run()
