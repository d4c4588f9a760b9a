"""``python -m captum_spes`` and the command ``captum-spes``."""

import sys

from captum_spes._extras import require


def main() -> None:
    """Runs the command line; without the extra ``speech`` it prints how to install it."""
    try:
        require("typer")
    except ImportError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    from captum_spes.cli import run

    run()


if __name__ == "__main__":
    main()
