"""`python -m l2a_transfer` is `l2a-transfer`."""

from __future__ import annotations

import sys


def run() -> None:
    """Run the command line. Ctrl-C while it is being imported also ends with a single line."""
    try:
        from l2a_transfer.threads import prepare_threads

        prepare_threads()  # first, because importing torch or scikit-learn makes these settings final
        from l2a_transfer.cli.main import main
    except KeyboardInterrupt:
        from l2a_transfer.cli.output import echo

        echo("Interrupted before it finished; run it again.", err=True)
        sys.exit(130)
    main(prog_name="l2a-transfer")


if __name__ == "__main__":  # spawned processes import this module again
    run()
